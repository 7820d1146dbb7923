//! Devices of CDI files in real containers: stand-in libraries made by a compiler, found by the loaders of glibc and musl;
//! stand-in device nodes (mem(4)'s `full` and `zero` under other names); and hostile files. No GPU is here: what is shown
//! is that every edit and every hook's effect arrives.

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use support::{ran, run, Contain, Lab};

/// A directory of the host's /dev with two device nodes, as long as it lives.
struct Nodes(PathBuf);

impl Nodes {
    fn new(name: &str) -> Self {
        let dir = PathBuf::from(format!("/dev/grus-{name}-{}", std::process::id()));
        fs::create_dir(&dir).expect("devtmpfs");
        let nodes = Self(dir);
        for (node, minor) in [("gpu0", "7"), ("gpu1", "5")] {
            run("mknod", &["--mode=666", &nodes.at(node), "c", "1", minor]);
        }
        nodes
    }

    fn at(&self, node: &str) -> String {
        self.0.join(node).to_string_lossy().into_owned()
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const LIB: &str = "/usr/lib/x86_64-linux-gnu";

/// Compiles `source` to `to`.
fn compile(compiler: &str, to: &Path, source: &str, flags: &[&str]) {
    let file = to.with_extension("c");
    fs::write(&file, source).expect("lab");
    let (to, file) = (to.to_string_lossy(), file.to_string_lossy());
    run(compiler, &[&["-o", &to, &file][..], flags].concat());
}

/// A driver's library, in the lab's directory `host`.
fn library(lab: &Lab, compiler: &str) -> String {
    let dir = lab.dir("host", 0o755);
    let file = dir.join("libcuda.so.575.57.08");
    let flags = ["-shared", "-fPIC", "-nostdlib", "-Wl,-soname,libcuda.so.1"];
    let flags = if compiler == "gcc" { &flags[..2] } else { &flags[..3] };
    let flags = [flags, &["-Wl,-soname,libcuda.so.1"]].concat();
    compile(
        compiler,
        &file,
        "int getpid(void);\nint answer(void) { return getpid() > 0 ? 42 : 0; }\n",
        &flags,
    );
    file.to_string_lossy().into_owned()
}

/// A program that opens the driver's library as programs do, and asks it.
fn program(tree: &Path, compiler: &str) {
    let source = "#include <dlfcn.h>\n#include <stdio.h>\n\
        int main(int count, char **words) {\n\
            void *library = dlopen(words[count - 1], RTLD_NOW);\n\
            int (*answer)(void) = library ? (int (*)(void))dlsym(library, \"answer\") : NULL;\n\
            if (!answer) { puts(dlerror()); return 1; }\n\
            printf(\"answer %d\\n\", answer());\n\
            return 0;\n\
        }\n";
    fs::create_dir_all(tree.join("usr/bin")).expect("tree");
    compile(compiler, &tree.join("usr/bin/ask"), source, &[]);
    fs::remove_file(tree.join("usr/bin/ask.c")).expect("tree");
}

fn busybox(tree: &Path) {
    fs::create_dir_all(tree.join("usr/bin")).expect("tree");
    fs::copy("/bin/busybox", tree.join("usr/bin/busybox")).expect("busybox-static");
    for applet in ["sh", "cat", "ls", "readlink", "head"] {
        symlink("busybox", tree.join("usr/bin").join(applet)).expect("tree");
    }
}

/// An image of a glibc, a shell and the program; without a cache of the loader's unless `cached`.
fn glibc(tree: &Path, cached: bool) {
    busybox(tree);
    program(tree, "gcc");
    for (from, to) in [
        ("/lib64/ld-linux-x86-64.so.2", "usr/lib64/ld-linux-x86-64.so.2"),
        ("/lib/x86_64-linux-gnu/libc.so.6", "usr/lib/x86_64-linux-gnu/libc.so.6"),
    ] {
        fs::create_dir_all(tree.join(to).parent().expect("static")).expect("tree");
        fs::copy(from, tree.join(to)).expect("tree");
    }
    if cached {
        run("ldconfig", &["-r", &tree.to_string_lossy()]);
    }
}

/// A file of devices in the lab: two of `a.b/gpu` and what all of them need.
fn describe(lab: &Lab, nodes: &Nodes, edits: &str) -> String {
    let node = |name: &str| {
        let path = nodes.at(name);
        format!(r#"{{"name":"{}","containerEdits":{{"deviceNodes":[{{"path":"{path}"}}]}}}}"#, &name[3..])
    };
    let devices = [node("gpu0"), node("gpu1")].join(",");
    let text = format!(
        r#"{{"cdiVersion":"0.6.0","kind":"nvidia.com/gpu","devices":[{devices}],"containerEdits":{{{edits}}}}}"#
    );
    let dir = lab.dir("cdi", 0o755);
    lab.file("cdi/devices.json", &text, 0o644);
    format!("cdi.dirs = ['{}']", dir.display())
}

/// What the driver's one library needs: a mount, and NVIDIA's hooks.
fn driver(library: &str) -> String {
    let hook = |args: &str| {
        format!(
            r#"{{"hookName":"createContainer","path":"/usr/bin/nvidia-cdi-hook","args":["nvidia-cdi-hook",{args}]}}"#
        )
    };
    let hooks = [
        hook(&format!(r#""create-symlinks","--link","libcuda.so.1::{LIB}/libcuda.so""#)),
        hook(&format!(r#""update-ldcache","--folder","{LIB}""#)),
        hook(r#""disable-device-node-modification""#),
    ];
    format!(
        r#""env":["TOLD=by-file"],"hooks":[{}],"mounts":[{{"hostPath":"{library}","containerPath":"{LIB}/libcuda.so.575.57.08","options":["ro","nosuid","nodev","bind"]}}]"#,
        hooks.join(",")
    )
}

/// A container that Slurm gave the second GPU.
fn second(image: &Path, site: &str) -> Contain {
    let contain = Contain::new(image).bare().site(site);
    contain.option("--variable", "SLURM_STEP_GPUS=1").option("--variable", "CUDA_VISIBLE_DEVICES=0")
}

#[test]
fn glibc_finds_the_driver_in_roots_that_can_be_changed_and_in_others() {
    let lab = lab!();
    let nodes = Nodes::new("glibc");
    let site = describe(&lab, &nodes, &driver(&library(&lab, "gcc")));
    for (name, cached) in [("cached", true), ("uncached", false)] {
        let image = lab.image(name, |tree| glibc(tree, cached));
        for contain in [second(&image, &site), second(&image, &site).option("--writable", "yes")] {
            for name in ["libcuda.so.1", &format!("{LIB}/libcuda.so")] {
                assert_eq!(ran(contain.program(&["/bin/ask", name])).ok(), "answer 42\n", "{name}");
            }
            assert_eq!(contain.sh("echo $TOLD").ok(), "by-file\n");
        }
        let plain = Contain::new(&image).bare().site(&site);
        let out = ran(plain.program(&["/bin/ask", "libcuda.so.1"]));
        assert!(out.code == Some(1) && out.out.contains("cannot open shared object file"), "{out:?}");
    }
}

#[test]
fn links_lead_to_the_mounted_file() {
    let lab = lab!();
    let nodes = Nodes::new("links");
    let site = describe(&lab, &nodes, &driver(&library(&lab, "gcc")));
    let image = lab.image("links", |tree| glibc(tree, true));
    let out = second(&image, &site)
        .sh(&format!("cd {LIB}; readlink libcuda.so; readlink libcuda.so.1; cat libcuda.so.1 | head -c 4"));
    let file = format!("{LIB}/libcuda.so.575.57.08\n");
    assert_eq!(out.ok(), format!("{file}{file}\u{7f}ELF"));
}

#[test]
fn musl_and_images_without_a_shell_are_served_too() {
    let lab = lab!();
    let nodes = Nodes::new("musl");
    let musl = lab.image("musl", |tree| {
        busybox(tree);
        program(tree, "musl-gcc");
        fs::create_dir_all(tree.join("usr/lib")).expect("tree");
        fs::copy("/usr/lib/x86_64-linux-musl/libc.so", tree.join("usr/lib/ld-musl-x86_64.so.1"))
            .expect("musl-tools");
    });
    let site = describe(&lab, &nodes, &driver(&library(&lab, "musl-gcc")));
    assert_eq!(ran(second(&musl, &site).program(&["/bin/ask", "libcuda.so.1"])).ok(), "answer 42\n");
    // A library of glibc's does not load there: left out and told, or refused.
    let site = describe(&lab, &nodes, &driver(&library(&lab, "gcc")));
    let out = ran(second(&musl, &site).program(&["/bin/ask", "libcuda.so.1"]));
    assert!(out.code == Some(1) && out.out.contains("libcuda.so.1"), "{out:?}");
    assert!(out.err.contains("does not fit the image") && out.err.contains("the image has musl"), "{out:?}");
    let refused = second(&musl, &site).option("--gpu", "all").sh("echo ran").refused();
    assert!(refused.contains("the image has musl"), "{refused}");
    let bare = lab.image("static", |tree| {
        fs::create_dir(tree.join("app")).expect("tree");
        fs::copy("/bin/busybox", tree.join("app/busybox")).expect("busybox-static");
    });
    let file = format!("{LIB}/libcuda.so.1");
    let out = ran(second(&bare, &site).program(&["/app/busybox", "head", "-c", "4", &file]));
    assert_eq!(out.ok(), "\u{7f}ELF");
}

#[test]
fn other_gpus_nodes_cannot_be_opened() {
    let lab = lab!();
    let nodes = Nodes::new("hidden");
    let site = describe(&lab, &nodes, "");
    let image = lab.image("hidden", busybox);
    let read = |node: &str| format!("head -c 1 {} >/dev/null && echo read", nodes.at(node));
    assert_eq!(second(&image, &site).sh(&read("gpu1")).ok(), "read\n");
    let other = second(&image, &site).sh(&read("gpu0"));
    assert!(other.out.is_empty() && other.err.contains("Permission denied"), "{other:?}");
    // In a container whose step was given no GPU, /dev is the host's as it is.
    assert_eq!(Contain::new(&image).bare().site(&site).sh(&read("gpu0")).ok(), "read\n");
    let refused = second(&image, &site).option("--device", &nodes.at("gpu0")).sh("true").refused();
    assert!(refused.contains("of a GPU that Slurm did not give this step"), "{refused}");
}

#[test]
fn a_device_node_of_ones_own_is_one_that_one_may_open() {
    let lab = lab!();
    let nodes = Nodes::new("own");
    let image = lab.image("own", busybox);
    let contain = || Contain::new(&image).bare();
    let out = contain()
        .option("--device", &nodes.at("gpu0"))
        .sh(&format!("head -c 1 {} >/dev/null", nodes.at("gpu0")));
    assert_eq!(out.ok(), "");
    run("chmod", &["600", &nodes.at("gpu1")]);
    let refused = contain().option("--device", &nodes.at("gpu1")).sh("true").refused();
    assert!(refused.contains("Permission denied"), "{refused}");
    let refused = contain().option("--device", "/dev/grus-nowhere").sh("true").refused();
    assert!(refused.contains("No such file or directory"), "{refused}");
}

#[test]
fn hooks_are_named_and_never_run() {
    let lab = lab!();
    let nodes = Nodes::new("hooks");
    let image = lab.image("hooks", |tree| {
        busybox(tree);
        // What CVE-2025-23266 needs: an image whose variables or files a hook would load.
        fs::write(tree.join("evil.so"), "").expect("tree");
    });
    let proof = lab.dir("proof", 0o777);
    let script = lab.file("hook", &format!("#!/bin/sh\ntouch {}/ran\n", proof.display()), 0o755);
    let hook = |name: &str, path: &Path| {
        format!(r#"{{"hookName":"{name}","path":"{}","args":["x"]}}"#, path.display())
    };
    let known = lab.file("nvidia-cdi-hook", &format!("#!/bin/sh\ntouch {}/ran\n", proof.display()), 0o755);
    let all = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];
    let hooks: Vec<String> = all.iter().flat_map(|name| [hook(name, &script), hook(name, &known)]).collect();
    let site =
        describe(&lab, &nodes, &format!(r#""hooks":[{}],"env":["LD_PRELOAD=/evil.so"]"#, hooks.join(",")));
    let out = second(&image, &site).option("--variable", "LD_PRELOAD=/evil.so").sh("echo ran");
    assert!(out.err.contains(&format!("hooks are never run: {}", script.display())), "{out:?}");
    assert_eq!(out.ok(), "ran\n");
    assert_eq!(fs::read_dir(&proof).expect("lab").count(), 0);
}

#[test]
fn a_file_that_others_can_write_is_told_and_not_used() {
    let lab = lab!();
    let nodes = Nodes::new("trust");
    let site = describe(&lab, &nodes, r#""env":["TOLD=by-file"]"#);
    let image = lab.image("trust", busybox);
    run("chmod", &["666", &lab.path("cdi/devices.json").to_string_lossy()]);
    let out = second(&image, &site).sh("echo ${TOLD:-nothing}");
    assert!(
        out.err.contains("devices.json is not used") && out.err.contains("is writable by others"),
        "{out:?}"
    );
    assert_eq!(out.ok(), "nothing\n");
    let refused = second(&image, &site).option("--device", "nvidia.com/gpu=1").sh("true").refused();
    assert!(
        refused.contains("no file of this node describes a device; ")
            && refused.contains("writable by others"),
        "{refused}"
    );
}

#[test]
fn destinations_stay_in_the_image_whatever_links_it_has() {
    let lab = lab!();
    let nodes = Nodes::new("hostile");
    let outside = lab.dir("outside", 0o777);
    // CVE-2024-0132 and CVE-2025-23267: links of an image in the way of mounts and of the loader's cache.
    let image = lab.image("hostile", |tree| {
        glibc(tree, true);
        fs::remove_file(tree.join("etc/ld.so.cache")).expect("tree");
        let up = format!("../../../../../../..{}", outside.display());
        symlink(format!("{up}/cache"), tree.join("etc/ld.so.cache")).expect("tree");
        symlink(&up, tree.join("usr/lib/x86_64-linux-gnu/vdpau")).expect("tree");
        symlink(&up, tree.join("way")).expect("tree");
    });
    let library = library(&lab, "gcc");
    let edits = driver(&library).replace(
        r#""mounts":["#,
        &format!(r#""mounts":[{{"hostPath":"{library}","containerPath":"/way/libx.so"}},"#),
    );
    let site = describe(&lab, &nodes, &edits);
    for contain in [second(&image, &site), second(&image, &site).option("--writable", "yes")] {
        assert_eq!(ran(contain.program(&["/bin/ask", "libcuda.so.1"])).ok(), "answer 42\n");
        let inside = contain.sh(&format!("ls {}", outside.display())).ok();
        assert_eq!(inside, "cache\nlibx.so\n", "in the container's own tree");
        assert_eq!(fs::read_dir(&outside).expect("lab").count(), 0, "nothing is on the host");
    }
}
