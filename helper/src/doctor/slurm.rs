//! Slurm: its release, the plugin and where it is set up, the daemons, munge.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use grus_enter::probe;

use super::ask::{ask, Answer, Silence};
use super::{daemon, plugstack, Check, Patient};

/// The releases that the plugin is made for.
const RELEASES: [(u32, u32); 2] = [(21, 8), (26, 5)];

pub fn checks(patient: &Patient, limit: Duration) -> Vec<Check> {
    let said = match ask("srun", &["--version"], "", limit) {
        Err(Silence::NoProgram) => {
            return vec![Check::warning("slurm.version", "there is no srun here")
                .means("images can be pulled and looked at; jobs are submitted elsewhere")
                .mend("apt install slurm-client, or add Slurm's directory to PATH")]
        }
        said => said,
    };
    let mut all = vec![version(said)];
    let settings = settings(limit);
    all.push(controller(&settings));
    let settings = settings.unwrap_or_default();
    let conf = slurm_conf(&settings);
    let file = settings.get("PlugStackConfig").filter(|path| path.starts_with('/'));
    let file = file.map_or_else(|| conf.with_file_name("plugstack.conf"), PathBuf::from);
    all.extend(plugin(patient, &file, &settings));
    all.push(options(limit));
    all.push(daemon::check(&conf, &file));
    all.push(munge(&settings, limit));
    all
}

fn version(said: Result<Answer, Silence>) -> Check {
    let name = "slurm.version";
    let said = match said {
        Ok(said) if said.ok => said.out.trim().to_owned(),
        Ok(said) => return broken(name, said.last_words()),
        Err(why) => return broken(name, &format!("{why:?}")),
    };
    let mut numbers = said.split([' ', '.', '-']).filter_map(|word| word.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(year), Some(month)) if (RELEASES[0]..=RELEASES[1]).contains(&(year, month)) => {
            Check::ok(name, said)
        }
        _ => Check::warning(name, format!("{said}: the plugin is made for 21.08 to 26.05"))
            .means("it may load and not work")
            .mend("see 'Install' in Grus's README for the releases of Slurm it is made for"),
    }
}

fn broken(name: &'static str, why: &str) -> Check {
    Check::fails(name, format!("srun --version: {why}"))
        .means("no job can be submitted from here")
        .mend("check slurm.conf and SLURM_CONF")
}

/// What the controller says of its configuration; else why it says nothing.
fn settings(limit: Duration) -> Result<BTreeMap<String, String>, String> {
    match ask("scontrol", &["show", "config"], "", limit) {
        Ok(said) if said.ok => Ok(said
            .out
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
            .collect()),
        Ok(said) => Err(said.last_words().to_owned()),
        Err(Silence::TooLong) => Err(format!("no answer within {} s", limit.as_secs())),
        Err(Silence::NoProgram) => Err("there is no scontrol here".into()),
        Err(Silence::Broken(why)) => Err(why),
    }
}

fn controller(settings: &Result<BTreeMap<String, String>, String>) -> Check {
    let name = "slurm.controller";
    match settings {
        Ok(settings) => {
            let cluster = settings.get("ClusterName").map_or("", String::as_str);
            Check::ok(name, format!("slurmctld of cluster {cluster} answers"))
        }
        Err(why) => Check::fails(name, format!("slurmctld does not answer: {why}"))
            .means("no job can be submitted from here")
            .mend("scontrol ping; check slurmctld, munge and the network"),
    }
}

/// Where slurm.conf is on this machine (slurm.conf(5); configless nodes have a copy).
fn slurm_conf(settings: &BTreeMap<String, String>) -> PathBuf {
    let own = std::env::var_os("SLURM_CONF").filter(|path| !path.is_empty()).map(PathBuf::from);
    let said = settings.get("SLURM_CONF").map(PathBuf::from);
    let usual = ["/etc/slurm/slurm.conf", "/run/slurm/conf/slurm.conf", "/etc/slurm-llnl/slurm.conf"];
    let usual = usual.into_iter().map(PathBuf::from);
    own.into_iter()
        .chain(said)
        .chain(usual)
        .find(|path| path.exists())
        .unwrap_or("/etc/slurm/slurm.conf".into())
}

fn plugin(patient: &Patient, file: &Path, settings: &BTreeMap<String, String>) -> Vec<Check> {
    let (name, shown) = ("slurm.plugstack", file.display());
    let means = "Slurm does not know the options of containers";
    let add = format!("echo 'required spank_grus.so' >> {shown}");
    let line = match plugstack::read(file) {
        Ok(line) => line,
        Err(why) => return vec![Check::fails(name, format!("{shown}: {why}")).means(means).mend(add)],
    };
    let Some(line) = line else {
        let found = format!("{shown} does not name spank_grus.so");
        return vec![Check::fails(name, found).means(means).mend(add)];
    };
    let mut all = vec![match line.required {
        true => Check::ok(name, format!("{shown} has '{}'", line.text)),
        false => Check::warning(name, format!("{shown} has '{}'", line.text))
            .means("where the plugin does not load, Slurm says 'unrecognized option' and no more")
            .mend(format!("write 'required' instead of 'optional' in {shown}")),
    }];
    all.push(library(&line.plugin, settings.get("PluginDir").map_or("", String::as_str)));
    // The plugin's own site file, where it is told one.
    let site = line.config.unwrap_or_else(|| crate::context::SITE_FILE.into());
    if site != patient.site_file {
        let found = format!("the plugin reads {}, this is {}", site.display(), patient.site_file.display());
        all.push(
            Check::warning("slurm.site-file", found)
                .means("what is said here of the site file may not hold for jobs")
                .mend(format!("export GRUS_CONFIG={}", site.display())),
        );
    }
    all
}

/// The plugin's file, as Slurm finds it (spank(8)).
fn library(plugin: &str, plugin_dirs: &str) -> Check {
    let name = "slurm.plugin";
    let means = "Slurm refuses to start jobs, or does not know the options of containers";
    let dirs = plugin_dirs.split(':').filter(|dir| !dir.is_empty());
    let found = match plugin.starts_with('/') {
        true => Some(PathBuf::from(plugin)).filter(|path| path.exists()),
        false => dirs.map(|dir| Path::new(dir).join(plugin)).find(|path| path.exists()),
    };
    let Some(path) = found else {
        let place = if plugin.starts_with('/') { String::new() } else { format!(" in {plugin_dirs}") };
        return Check::fails(name, format!("there is no {plugin}{place}"))
            .means(means)
            .mend("DESTDIR=/ ci/package; PLUGINDIR says where to, see PluginDir of slurm.conf");
    };
    let shown = path.display();
    match probe::why_not_roots(&path) {
        Ok(None) => Check::ok(name, shown.to_string()),
        Ok(Some(why)) => Check::warning(name, format!("{shown} is not root's alone: {why}"))
            .means("whoever can write it is root on every node")
            .mend(format!("chown root:root {shown}; chmod 0755 {shown}; and so the directories above")),
        Err(why) => Check::fails(name, why).means(means),
    }
}

/// Whether srun, which loads the plugin, has its options: the proof by trying.
fn options(limit: Duration) -> Check {
    let name = "slurm.options";
    let bad = |why: &str| {
        Check::fails(name, format!("srun does not have --container-image{why}"))
            .means("the plugin is not loaded on this machine")
            .mend("srun -v true shows why; see plugstack.conf and the plugin's file above")
    };
    match ask("srun", &["--help"], "", limit) {
        Ok(said) if (said.out.clone() + &said.err).contains("--container-image=") => {
            Check::ok(name, "srun has loaded the plugin: it knows --container-image")
        }
        Ok(said) if said.ok => bad(""),
        Ok(said) => bad(&format!(": {}", said.last_words())),
        Err(why) => bad(&format!(": {why:?}")),
    }
}

/// A credential made and read back.
fn munge(settings: &BTreeMap<String, String>, limit: Duration) -> Check {
    let name = "slurm.munge";
    match settings.get("AuthType").map(String::as_str) {
        None | Some("auth/munge") => {}
        Some(other) => return Check::ok(name, format!("this Slurm does without munge: {other}")),
    }
    let info = settings.get("AuthInfo").map_or("", String::as_str);
    let socket = info.split(',').find_map(|part| part.strip_prefix("socket="));
    let socket = socket.map(|path| format!("--socket={path}"));
    let args =
        |first: &'static str| -> Vec<&str> { std::iter::once(first).chain(socket.as_deref()).collect() };
    let bad = |why: &str| {
        Check::fails(name, format!("munge: {why}"))
            .means("Slurm trusts nothing that this machine says")
            .mend("systemctl restart munge; the key must be the same on all machines, and so must the time")
    };
    let made = match ask("munge", &args("--no-input"), "", limit) {
        Err(Silence::NoProgram) => return Check::ok(name, "there is no munge program here to try it with"),
        Err(why) => return bad(&format!("{why:?}")),
        Ok(said) if !said.ok => return bad(said.last_words()),
        Ok(said) => said.out,
    };
    match ask("unmunge", &args("--no-output"), &made, limit) {
        Ok(said) if said.ok => Check::ok(name, "munge makes credentials and reads them back"),
        Ok(said) => bad(said.last_words()),
        Err(why) => bad(&format!("{why:?}")),
    }
}

/// When a file was last changed.
pub(super) fn changed(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|meta| meta.modified()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    #[test]
    fn releases_are_told_by_their_numbers() {
        let said = |out: &str| Ok(Answer { ok: true, out: out.into(), err: String::new() });
        for (out, state) in [
            ("slurm-wlm 22.05.8\n", State::Ok),
            ("slurm 21.08.0", State::Ok),
            ("slurm 26.05.1-2", State::Ok),
            ("slurm 20.11.9", State::Warning),
            ("slurm 26.11.0", State::Warning),
            ("what", State::Warning),
        ] {
            assert_eq!(version(said(out)).state, state, "{out}");
        }
    }

    #[test]
    fn a_plugin_is_looked_for_where_slurm_looks() {
        assert_eq!(library("/no/spank_grus.so", "/usr/lib").state, State::Fails);
        assert_eq!(library("spank_grus.so", "/no:/such").state, State::Fails);
        assert_ne!(library("sh", "/no:/bin").state, State::Fails);
    }
}
