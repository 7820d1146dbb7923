//! Images of every ordinary kind run, from the system's repository and as a user's own: with glibc, with musl, with
//! one static program and no shell, and with the places a runtime mounts on missing or links.

use crate::lab::Lab;

crate::tests![
    debian,
    busybox,
    musl,
    one_static_program,
    no_passwd_tmp_proc_or_home,
    passwd_tmp_and_home_are_links,
    a_volatile_directory_in_every_kind,
];

/// Two ranks, one on each node, run `command`; both say `line`.
fn says(lab: &Lab, name: &str, command: &[&str], line: &str) {
    for image in lab.both_kinds(name) {
        let run = lab.srun(&["-N2", "-n2", &image]).args(command).run().success();
        assert_eq!(run.sorted_lines(), [line, line], "{image}: {run}");
    }
}

fn user(lab: &Lab) -> &str {
    &lab.account().name
}

/// What a user's program counts on: an own name, a home, a writable /tmp, /proc.
const COUNTS_ON: &str = "test -w /tmp && test -r /proc/self/status && test -w $HOME && id -un";

fn debian(lab: &Lab) {
    says(lab, "debian", &["bash", "-c", "grep -o '^ID=.*' /etc/os-release"], "ID=debian");
    says(lab, "debian", &["sh", "-c", COUNTS_ON], user(lab));
}

fn busybox(lab: &Lab) {
    says(lab, "busybox", &["sh", "-c", COUNTS_ON], user(lab));
}

fn musl(lab: &Lab) {
    says(lab, "musl", &["/usr/bin/hello"], "hello from musl");
    says(lab, "musl", &["sh", "-c", COUNTS_ON], user(lab));
}

fn one_static_program(lab: &Lab) {
    says(lab, "static", &["/app/busybox", "echo", "no shell"], "no shell");
    says(lab, "static", &["/app/busybox", "id", "-un"], user(lab));
}

fn no_passwd_tmp_proc_or_home(lab: &Lab) {
    says(lab, "no-passwd", &["sh", "-c", COUNTS_ON], user(lab));
}

fn passwd_tmp_and_home_are_links(lab: &Lab) {
    says(lab, "tmp-link", &["sh", "-c", COUNTS_ON], user(lab));
    says(lab, "tmp-link", &["sh", "-c", "test -L /tmp && test -L /etc/passwd && echo links"], "links");
}

fn a_volatile_directory_in_every_kind(lab: &Lab) {
    for (name, dir, shell) in [
        ("debian", "/usr/local", &["sh", "-c"][..]),
        ("musl", "/usr", &["sh", "-c"]),
        ("static", "/app", &["/app/busybox", "sh", "-c"]),
        ("tmp-link", "/real", &["sh", "-c"]),
    ] {
        let volatile = format!("--writable-volatile={dir}");
        let script = format!("echo new >{dir}/new && while read line; do echo $line; done <{dir}/new");
        for image in lab.both_kinds(name) {
            let run = lab.srun(&[&image, &volatile]).args(shell).arg(&script).run().success();
            let _ = run.stdout_is("new");
        }
    }
}
