//! A plan as text, a line an operation: what `grus plan` prints and the golden tests compare.

use std::fmt;

use super::{How, LaunchPlan, Made, Make, Op, Opener};
use crate::refusal::{controls_shown, printable};

impl fmt::Display for LaunchPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "image     {} ({})", controls_shown(self.image.as_str()), self.how)?;
        if self.writable {
            writeln!(f, "writable  /")?;
        }
        for made in &self.skeleton {
            writeln!(f, "{made}")?;
        }
        for op in &self.mounts {
            writeln!(f, "{op}")?;
        }
        for (name, value) in &self.environment.set {
            writeln!(f, "setenv    {}={}", printable(name), printable(value))?;
        }
        for name in &self.environment.unset {
            writeln!(f, "unsetenv  {}", printable(name))?;
        }
        if let Some(dir) = &self.workdir {
            writeln!(f, "workdir   {}", controls_shown(dir.as_str()))?;
        }
        if self.remap_root {
            writeln!(f, "identity  root, in a user namespace")?;
        }
        let namespaces = self.namespaces.names();
        if !namespaces.is_empty() {
            writeln!(f, "own       {}", namespaces.join(","))?;
        }
        if !self.entrypoint.is_empty() {
            writeln!(f, "entry     {}", printable(&self.entrypoint.join(" ")))?;
        }
        for module in &self.modules {
            writeln!(f, "module    {}", printable(module))?;
        }
        if let Some(stack) = &self.stack {
            writeln!(f, "stack     {}", printable(stack))?;
        }
        if let Some(check) = &self.check {
            writeln!(f, "verify    {}", controls_shown(&format!("{} by {}", check.object, check.loader)))?;
        }
        for device in &self.devices {
            writeln!(f, "device    {}", printable(device))?;
        }
        self.warnings.iter().try_for_each(|warning| writeln!(f, "warning   {}", printable(warning)))
    }
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            How::Kernel => "kernel",
            How::Fuse => "squashfuse as the user",
            How::Cached => "kernel, a copy in the node's cache",
            How::Unpacked => "unpacked by the user",
        })
    }
}

// A path may hold anything but a NUL. In these lines it adds no other to a record or a file, and no escape to a terminal; it
// is never cut, for they are what the audit trail has.

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&controls_shown(&self.text()))
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&controls_shown(&self.text()))
    }
}

impl Made {
    fn text(&self) -> String {
        let what = match &self.make {
            Make::Directory => "make dir ",
            Make::File => "make file",
            Make::Link(target) => return format!("link      {} -> {target}", self.path),
        };
        format!("{what} {} {:04o} {}:{}", self.path, self.mode, self.uid, self.gid)
    }
}

impl Op {
    fn text(&self) -> String {
        match self {
            Op::Bind { source, destination, recursive, readonly, noexec, devices, opener } => {
                let access = if *readonly { "ro" } else { "rw" };
                let flags = [
                    (!*recursive, ",norec"),
                    (*noexec, ",noexec"),
                    (*devices, ",dev"),
                    (*opener == Opener::Site, ",site"),
                ];
                let flags: String = flags.iter().filter(|(on, _)| *on).map(|(_, text)| *text).collect();
                format!("bind      {source} on {destination} ({access}{flags})")
            }
            Op::Text { destination, content, executable } => {
                let program = if *executable { ", program" } else { "" };
                let size = match std::str::from_utf8(content) {
                    Ok(text) if !text.contains('\0') => format!("{} lines", text.lines().count()),
                    _ => format!("{} bytes", content.len()),
                };
                format!("text      {destination} ({size}{program})")
            }
            Op::Volatile { destination } => format!("volatile  {destination}"),
            Op::Tmpfs { destination, tmpfs, readonly, noexec } => {
                let size = tmpfs.size.map_or(String::new(), |size| format!(",size={size}"));
                let huge = tmpfs.huge.map_or(String::new(), |huge| format!(",huge={huge}"));
                let access = if *readonly { "ro" } else { "rw" };
                let exec = if *noexec { ",noexec" } else { "" };
                format!("tmpfs     {destination} ({access}{size},mode={:04o}{huge}{exec})", tmpfs.mode)
            }
            Op::Squashfs { source, destination, noexec, opener } => {
                let exec = if *noexec { ",noexec" } else { "" };
                let opener = if *opener == Opener::Site { ",site" } else { "" };
                format!("squashfs  {source} on {destination} (ro{exec}{opener})")
            }
            Op::Scratch { destination, size, noexec } => {
                let exec = if *noexec { ",noexec" } else { "" };
                format!("scratch   {destination} (size={size}{exec})")
            }
            Op::Make { destination, make } => match make {
                Make::Directory => format!("make dir  {destination}"),
                Make::File => format!("make file {destination}"),
                Make::Link(target) => format!("link      {destination} -> {target}"),
            },
        }
    }
}
