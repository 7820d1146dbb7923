//! `grus tag`, `grus inspect` and `grus prune`.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use crate::archives::*;
use crate::support::{files, Lab, Output};

/// A lab with the images app:1 and app:2, of which the first was imported `days` ago.
fn two(days: u64) -> (Lab, String, String) {
    let lab = Lab::new();
    let mut digests = vec![];
    for n in 1..=2 {
        let mut layout = Layout::new(lab.path(&format!("layout{n}")));
        let image = layout.image(&[base_layer(), tar_of(&[("srv/n", &[n])])], arch());
        digests.push(image["digest"].as_str().expect("digest").to_owned());
        layout.add(image, None, None);
        layout.finish();
        let _ = lab.run(["import", "-q", &format!("layout{n}"), &format!("app:{n}")]).ok();
    }
    let tag = lab.repository().join("refs/docker.io/library/app/:1");
    let then = SystemTime::now() - Duration::from_secs(days * 86400);
    for file in files(&tag) {
        fs::File::options().write(true).open(file).and_then(|f| f.set_modified(then)).expect("an old tag");
    }
    let second = digests.pop().expect("two");
    (lab, digests.remove(0), second)
}

fn names(lab: &Lab) -> Vec<String> {
    let listed: Value = serde_json::from_str(&lab.run(["images", "--json"]).ok().out).expect("JSON");
    listed.as_array().expect("a list").iter().map(|r| r["reference"].to_string()).collect()
}

#[test]
fn an_image_gets_another_name_and_keeps_the_first() {
    let (lab, first, _) = two(0);
    assert_eq!(lab.run(["tag", "app:1", "x.y/new:v"]).ok().out, "Tagged: x.y/new:v\n");
    assert_eq!(lab.run(["tag", &first[7..19], "by-digest"]).ok().out, "Tagged: by-digest:latest\n");
    // A name that is taken moves.
    let _ = lab.run(["tag", "app:2", "by-digest"]).ok();
    assert_eq!(names(&lab).len(), 4);
    let _ = lab.run(["rmi", "app:1"]).ok();
    let shown: Value = serde_json::from_str(&lab.run(["inspect", "x.y/new:v"]).ok().out).expect("JSON");
    assert_eq!(shown[0]["Id"], first.as_str());
    lab.run(["tag", "nosuch", "x"]).refused(2, "no image nosuch:latest");
    lab.run(["tag", "app:2", &format!("x@{first}")]).refused(2, "cannot be a new name");
    lab.assert_sound();
}

#[test]
fn inspect_shows_the_configuration_and_all_names() {
    let (lab, first, second) = two(0);
    let _ = lab.run(["tag", "app:1", "other"]).ok();
    let shown: Value = serde_json::from_str(&lab.run(["inspect", "app:1", &second]).ok().out).expect("JSON");
    assert_eq!(shown[0]["Id"], first.as_str());
    assert_eq!(shown[0]["RepoTags"].as_array().map(Vec::len), Some(2));
    assert_eq!(shown[0]["Config"]["WorkingDir"], "/srv");
    assert_eq!(shown[1]["Id"], second.as_str());
    // What there is none of is an empty list, for templates.
    assert_eq!(lab.run(["inspect", "-f", "{{json .Signatures}}", "app:1"]).ok().out, "[]\n");
    lab.run(["inspect", "app:1", "nosuch"]).refused(2, "no image nosuch:latest");
}

#[test]
fn prune_alone_takes_what_has_no_name() {
    let (lab, first, _) = two(0);
    fs::remove_dir_all(lab.repository().join("refs/docker.io/library/app/:1")).expect("remove the tag");
    let dry = lab.run(["prune", "--dry-run"]).ok().out;
    assert!(dry.starts_with(&format!("Deleted: {first} (")), "{dry}");
    assert_eq!(names(&lab).len(), 2, "a dry run changes nothing");
    assert_eq!(lab.run(["prune"]).ok().out, dry);
    assert_eq!(names(&lab), ["\"docker.io/library/app:2\""]);
    assert_eq!(lab.run(["prune"]).ok().out, "Freed: 0 B\n");
    lab.assert_sound();
}

/// As the help of `grus images` has it.
#[test]
fn everything_is_removed_by_the_command_in_the_help() {
    let (lab, _, _) = two(0);
    let _ = lab.run(["tag", "app:1", "second:1"]).ok();
    let help = lab.run(["images", "--help"]).ok().out;
    let line = help.lines().find(|line| line.ends_with("   remove everything")).expect("an example");
    let line = line.trim().trim_end_matches("remove everything").trim_end();
    let bin = lab.path("bin");
    fs::create_dir(&bin).expect("mkdir");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_grus"), bin.join("grus")).expect("symlink");
    let grus = lab.command::<&str>([]);
    // Again where nothing is left.
    for _ in 0..2 {
        let mut shell = Command::new("sh");
        shell.args(["-c", line]).env_clear().current_dir(lab.dir.path());
        shell.envs(grus.get_envs().filter_map(|(name, value)| Some((name, value?))));
        shell.env("PATH", format!("{}:/usr/bin:/bin", bin.display()));
        let said = Output::of(shell.output().expect("a shell")).ok();
        assert_eq!(said.err, "", "{line}");
        assert!(names(&lab).is_empty());
        lab.assert_empty();
    }
}

#[test]
fn prune_by_age_takes_what_was_not_used_for_long() {
    let (lab, first, _) = two(40);
    assert_eq!(lab.run(["prune", "--older-than", "50d"]).ok().out, "Freed: 0 B\n");
    let said = lab.run(["prune", "--older-than", "30d"]).ok().out;
    assert!(said.contains(&format!("Untagged: app:1\nDeleted: {first} (")), "{said}");
    assert_eq!(names(&lab), ["\"docker.io/library/app:2\""]);
    lab.assert_sound();
}

#[test]
fn an_import_makes_an_image_young_again() {
    let (lab, _, _) = two(40);
    let _ = lab.run(["import", "layout1", "app:1"]).ok();
    assert_eq!(lab.run(["prune", "--older-than", "30d"]).ok().out, "Freed: 0 B\n");
}

#[test]
fn prune_by_size_takes_the_oldest_first() {
    let (lab, first, second) = two(1);
    // Each image is one 4 KiB block.
    let said = lab.run(["prune", "--keep", "5kB"]).ok().out;
    assert!(said.contains(&first) && !said.contains(&second), "{said}");
    let _ = lab.run(["prune", "--keep", "0"]).ok();
    lab.assert_empty();
}

#[test]
fn prune_tells_in_json_what_went() {
    let (lab, first, _) = two(40);
    let pruned = |more: &[&str]| -> Value {
        let args = ["prune", "--json", "--older-than", "30d"].iter().chain(more);
        serde_json::from_str(&lab.run(args).ok().out).expect("JSON")
    };
    let dry = pruned(&["-n"]);
    assert_eq!(dry["dry-run"], true);
    assert_eq!(dry["untagged"][0]["reference"], "docker.io/library/app:1");
    let done = pruned(&[]);
    assert_eq!((&done["deleted"], &done["freed"]), (&dry["deleted"], &dry["freed"]));
    assert_eq!((&done["deleted"][0]["digest"], &done["freed"]), (&first.into(), &done["deleted"][0]["size"]));
    assert_eq!(
        (pruned(&[])["deleted"].as_array().map(Vec::len), &pruned(&[])["freed"]),
        (Some(0), &0.into())
    );
    lab.assert_sound();
}

#[test]
fn prune_refuses_what_it_does_not_understand() {
    let lab = Lab::new();
    lab.run(["prune", "--older-than", "30"]).refused(2, "no age");
    lab.run(["prune", "--older-than", "d"]).refused(2, "no age");
    lab.run(["prune", "--keep", "much"]).refused(2, "no size");
    lab.run(["prune", "--keep", "99999999999TB"]).refused(2, "no size");
    assert_eq!(lab.run(["prune"]).ok().out, "Freed: 0 B\n");
    assert!(!lab.repository().exists());
}

/// Where /proc hides the processes of others, as on many login nodes.
#[test]
fn a_running_commands_file_stays_where_others_cannot_see_its_process() {
    const VISIBLE: i32 = 42;
    const HIDDEN: &str = "mount -t proc -o hidepid=2 proc /proc || exit 42
        exec setpriv --reuid 65534 --regid 65534 --clear-groups \
            sh -c 'test ! -e /proc/$1 || exit 42; exec \"$0\" prune' \"$@\"";
    let lab = Lab::new();
    let mut importing =
        lab.command(["import", "-", "app"]).stdin(Stdio::piped()).spawn().expect("grus starts");
    // More than is looked at before anything is written, and not all.
    let noise: Vec<u8> =
        (0..3 << 20_u32).flat_map(|n: u32| n.wrapping_mul(0x9e37_79b9).to_be_bytes()).collect();
    let archive = tar_of(&[("etc/", b""), ("etc/noise", &noise)]);
    importing.stdin.as_mut().expect("a pipe").write_all(&archive[..8 << 20]).expect("it reads");
    let start = Instant::now();
    let part = loop {
        assert!(start.elapsed() < Duration::from_secs(30), "nothing is written");
        match files(&lab.repository().join("tmp")).pop() {
            Some(part) => break part,
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    let program = lab.path("grus");
    fs::copy(env!("CARGO_BIN_EXE_grus"), &program).expect("copy");
    let open = |dir, mode| fs::set_permissions(dir, fs::Permissions::from_mode(mode)).expect("chmod");
    open(lab.dir.path().to_owned(), 0o755);
    open(lab.repository().join("tmp"), 0o777);
    let pid = importing.id().to_string();
    let prune = || {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation=private", "sh", "-c", HIDDEN, "sh"]).arg(&program).arg(&pid);
        let grus = lab.command::<&str>([]);
        command.env_clear().envs(grus.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Output::of(command.current_dir(lab.dir.path()).output().expect("unshare starts"))
    };
    let said = prune();
    let there = part.exists();
    importing.kill().and_then(|()| importing.wait()).expect("it ends");
    if said.code == Some(VISIBLE) || !nix::unistd::Uid::effective().is_root() {
        eprintln!("SKIPPED: processes cannot be hidden here: {said:?}");
        return;
    }
    let _ = said.ok();
    assert!(there, "its writer was running");
    let _ = prune().ok();
    assert!(!part.exists(), "its writer is gone");
}
