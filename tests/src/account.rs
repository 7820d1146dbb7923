//! The ordinary user of a lab: made when missing, with two supplementary groups, and removed again only if made.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{bail, Context, Result};

use crate::command::Cmd;

/// An ordinary user of the machine.
#[derive(Debug, Clone)]
pub struct Account {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Primary group's id.
    pub gid: u32,
    /// Home directory, a real path.
    pub home: PathBuf,
}

impl Account {
    /// The user `name`, made with a home and the groups `<name>-a` and `<name>-b` if missing. What was made is
    /// noted in `<dir>/made-user`, for [`Account::remove_if_made`].
    pub fn ensure(dir: &Path, name: &str) -> Result<Self> {
        if let Some(account) = Self::find(name)? {
            return Ok(account);
        }
        let groups = extra_groups(name);
        fs::write(dir.join("made-user"), name)?;
        for group in &groups {
            checked(Cmd::new("groupadd").args(["--force", group]))?;
        }
        // With no ranges of subordinate ids (subuid(5)): nothing here needs them.
        let useradd = Cmd::new("useradd").args(["--create-home", "--user-group", "--shell", "/bin/bash"]);
        let useradd = useradd.args(["--key", "SUB_UID_COUNT=0", "--key", "SUB_GID_COUNT=0"]);
        checked(useradd.arg(format!("--groups={}", groups.join(","))).arg(name))?;
        Self::find(name)?.with_context(|| format!("useradd made no user {name}"))
    }

    /// Looks the user up in the user database.
    pub fn find(name: &str) -> Result<Option<Self>> {
        let output = Cmd::new("getent").args(["passwd", name]).run();
        let fields: Vec<&str> = output.stdout.trim_end().split(':').collect();
        let [_, _, uid, gid, _, home, _] = fields[..] else { return Ok(None) };
        Ok(Some(Self { name: name.into(), uid: uid.parse()?, gid: gid.parse()?, home: home.into() }))
    }

    /// Names of the supplementary groups the lab gives this user.
    pub fn extra_groups(&self) -> [String; 2] {
        extra_groups(&self.name)
    }

    /// Undoes [`Account::ensure`], if it made the user.
    pub fn remove_if_made(dir: &Path) -> Result<()> {
        let note = dir.join("made-user");
        let Ok(name) = fs::read_to_string(&note) else { return Ok(()) };
        if Self::find(&name)?.is_some() {
            // --force: a process of the user that is just ending must not keep the account alive.
            checked(Cmd::new("userdel").args(["--force", "--remove", &name]))?;
        }
        for group in extra_groups(&name) {
            if Cmd::new("getent").args(["group", &group]).run().status.success() {
                checked(Cmd::new("groupdel").arg(&group))?;
            }
        }
        fs::remove_file(note)?;
        Ok(())
    }
}

fn extra_groups(name: &str) -> [String; 2] {
    [format!("{name}-a"), format!("{name}-b")]
}

/// Runs a command that must succeed.
pub(crate) fn checked(cmd: Cmd) -> Result<String> {
    let output = cmd.run();
    if !output.status.success() {
        bail!("{output}");
    }
    Ok(output.stdout)
}
