//! Images of a few entries, each made in a moment: busybox, and odd ones that a container runtime must bear.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{bail, Context, Result};
use serde_json::json;
use tar::{Builder, EntryType, Header};

use super::layout::Layout;
use super::EPOCH;
use crate::account::checked;
use crate::command::Cmd;

/// Makes image `name` in the new directory `dir`:
/// `busybox`: busybox with all its applets, a passwd, an environment and a working directory of its own;
/// `musl`: busybox and a program linked to musl, with musl's loader and no other library;
/// `static`: one static binary and nothing else, no shell, no directory but its own;
/// `no-passwd`: busybox without `/etc`, `/tmp`, `/proc` or any other directory a runtime mounts on;
/// `tmp-link`: busybox with `/tmp`, `/etc/passwd`, `/var/run` as symbolic links, some absolute, some hostile;
/// `entry`: `busybox` with an ENTRYPOINT that is found in PATH, says its arguments and runs them;
/// `other-arch`: busybox that says it is for s390x.
pub fn make(name: &str, dir: &Path) -> Result<()> {
    let mut layout = Layout::create(dir)?;
    layout.layer(|out| {
        let mut layer = Layer { tar: Builder::new(out) };
        match name {
            "busybox" | "other-arch" => busybox(&mut layer, true)?,
            "musl" => musl(&mut layer, &dir.with_extension("program"))?,
            "entry" => {
                busybox(&mut layer, true)?;
                layer.file(
                    "opt/tools/entry",
                    0o755,
                    b"#!/bin/sh\necho entry: \"$@\"\nshift\nexec \"$@\"\n",
                )?;
            }
            "static" => layer.file("app/busybox", 0o755, &fs::read("/bin/busybox")?)?,
            "no-passwd" => busybox(&mut layer, false)?,
            "tmp-link" => linked(&mut layer)?,
            other => bail!("no small image {other}"),
        }
        layer.tar.finish().context("end of the layer")
    })?;
    let architecture = if name == "other-arch" { "s390x" } else { "amd64" };
    let config = match name {
        "static" => json!({"Entrypoint": ["/app/busybox"]}),
        "entry" => json!({"Env": ["PATH=/opt/tools:/usr/bin:/bin"], "Entrypoint": ["entry", "--"]}),
        "busybox" => json!({
            "Env": ["PATH=/opt/tools:/usr/bin:/bin", "IMAGE_NAME=busybox", "EMPTY=", "SPACED=two words"],
            "Cmd": ["/bin/sh"],
            "WorkingDir": "/opt/work",
        }),
        _ => json!({"Env": ["PATH=/usr/bin:/bin", format!("IMAGE_NAME={name}")], "Cmd": ["/bin/sh"]}),
    };
    layout.finish(architecture, config)
}

fn busybox(layer: &mut Layer<'_>, full: bool) -> Result<()> {
    layer.dir("bin", 0o755)?;
    layer.file(
        "bin/busybox",
        0o755,
        &fs::read("/bin/busybox").context("busybox-static: run ci/packages")?,
    )?;
    for applet in checked(Cmd::new("/bin/busybox").arg("--list"))?.lines().filter(|a| *a != "busybox") {
        layer.link(&format!("bin/{applet}"), "busybox")?;
    }
    if !full {
        return Ok(());
    }
    for (name, mode) in
        [("etc", 0o755), ("tmp", 0o1777), ("root", 0o700), ("opt", 0o755), ("opt/work", 0o755)]
    {
        layer.dir(name, mode)?;
    }
    for name in ["proc", "sys", "dev", "usr", "usr/bin", "opt/tools", "var", "run", "home", "mnt"] {
        layer.dir(name, 0o755)?;
    }
    layer.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nimageuser:x:4242:4242::/:/bin/sh\n")?;
    layer.file("etc/group", 0o644, b"root:x:0:\nimagegroup:x:4242:\n")?;
    layer.file("etc/os-release", 0o644, b"NAME=Crane\nPRETTY_NAME=\"Crane 1 (busybox)\"\n")?;
    layer.file("etc/only-in-image", 0o644, b"from the image\n")?;
    layer.file("opt/tools/only-in-image", 0o755, b"#!/bin/sh\necho a tool of the image: \"$@\"\n")?;
    layer.file("opt/work/here", 0o644, b"the image's working directory\n")?;
    layer.file("opt/work/secret", 0o600, b"of root alone\n")?;
    layer.owned("opt/data", EntryType::Directory, 0o2750, 1234, 5678, b"")?;
    layer.owned("opt/data/kept", EntryType::Regular, 0o640, 1234, 5678, b"kept\n")?;
    layer.dir("opt/data/sub", 0o711)?;
    layer.file("opt/data/sub/deep", 0o644, b"deep\n")
}

/// As Alpine is: busybox, and what is not busybox linked to musl.
fn musl(layer: &mut Layer<'_>, work: &Path) -> Result<()> {
    busybox(layer, true)?;
    fs::create_dir_all(work)?;
    let (source, program) = (work.join("hello.c"), work.join("hello"));
    fs::write(&source, "#include <stdio.h>\nint main(void) { return puts(\"hello from musl\") < 0; }\n")?;
    checked(Cmd::new("musl-gcc").args(["-O1", "-o"]).arg(&program).arg(&source))?;
    layer.file("usr/bin/hello", 0o755, &fs::read(&program)?)?;
    fs::remove_dir_all(work)?;
    layer.dir("lib", 0o755)?;
    let libc = fs::read("/usr/lib/x86_64-linux-musl/libc.so").context("musl-tools: run ci/packages")?;
    layer.file("lib/ld-musl-x86_64.so.1", 0o755, &libc)
}

/// A rootfs whose usual mount points are links: a runtime that follows them on the host mounts in wrong places.
fn linked(layer: &mut Layer<'_>) -> Result<()> {
    busybox(layer, false)?;
    for name in ["etc", "var", "real", "real/tmp", "proc", "sys", "dev"] {
        layer.dir(name, 0o755)?;
    }
    layer.link("tmp", "/real/tmp")?;
    layer.link("home", "../../../../../../real")?;
    layer.link("var/run", "/run")?;
    layer.link("run", "nowhere/at/all")?;
    layer.link("hostile", "/../../../etc")?;
    layer.link("loop", "loop")?;
    layer.link("etc/passwd", "/real/passwd")?;
    layer.link("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf")?;
    layer.file("real/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n")
}

/// Entries of one layer, owned by root unless said otherwise.
struct Layer<'a> {
    tar: Builder<&'a mut dyn Write>,
}

impl Layer<'_> {
    fn dir(&mut self, name: &str, mode: u32) -> Result<()> {
        self.owned(name, EntryType::Directory, mode, 0, 0, b"")
    }

    fn file(&mut self, name: &str, mode: u32, content: &[u8]) -> Result<()> {
        self.owned(name, EntryType::Regular, mode, 0, 0, content)
    }

    fn link(&mut self, name: &str, target: &str) -> Result<()> {
        let mut header = header(EntryType::Symlink, 0o777, 0, 0, 0);
        // Kept as written: a link may point anywhere, also above the root.
        header.set_link_name_literal(target)?;
        Ok(self.tar.append_data(&mut header, name, &b""[..])?)
    }

    fn owned(
        &mut self,
        name: &str,
        kind: EntryType,
        mode: u32,
        uid: u64,
        gid: u64,
        data: &[u8],
    ) -> Result<()> {
        let mut header = header(kind, mode, uid, gid, data.len());
        Ok(self.tar.append_data(&mut header, name, data)?)
    }
}

fn header(kind: EntryType, mode: u32, uid: u64, gid: u64, size: usize) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(uid);
    header.set_gid(gid);
    header.set_mtime(EPOCH);
    header.set_size(size as u64);
    header
}
