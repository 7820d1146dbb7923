//! A plan as text, a line an operation: what `grus plan` prints and the golden tests compare.

use std::fmt;

use super::{How, LaunchPlan, Made, Op, Opener};
use crate::refusal::printable;

impl fmt::Display for LaunchPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "image     {} ({})", self.image, self.how)?;
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
        match &self.workdir {
            Some(dir) => writeln!(f, "workdir   {dir}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            How::Kernel => "kernel",
            How::Fuse => "squashfuse as the user",
        })
    }
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.directory { "make dir " } else { "make file" };
        write!(f, "{what} {} {:04o} {}:{}", self.path, self.mode, self.uid, self.gid)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Bind { source, destination, readonly, devices, opener } => {
                let access = if *readonly { "ro" } else { "rw" };
                let devices = if *devices { ",dev" } else { "" };
                let opener = if *opener == Opener::Site { ",site" } else { "" };
                write!(f, "bind      {source} on {destination} ({access}{devices}{opener})")
            }
            Op::Text { destination, content } => {
                write!(f, "text      {destination} ({} lines)", content.lines().count())
            }
            Op::Volatile { destination } => write!(f, "volatile  {destination}"),
        }
    }
}
