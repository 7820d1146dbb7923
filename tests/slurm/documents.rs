//! What the documents tell people to type, typed: each Grus line of README.md and docs/cheat-sheet.md, each command of
//! docs/tutorial.md, as an ordinary user of the lab. Docker Hub is the lab's registry, by a registries.conf.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use grus_tests::daemon::wait_until;
use grus_tests::{Cmd, Fuse, ImageStore, Output};

use crate::lab::Lab;

crate::tests![
    every_line_of_the_readmes_docker_sheet_runs,
    every_line_of_the_cheat_sheet_runs,
    the_tutorial_is_true
];

const LIMIT: Duration = Duration::from_secs(240);

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A directory of the user's, and what makes registries out of the lab's one.
struct Desk<'a> {
    lab: &'a Lab,
    dir: PathBuf,
}

impl<'a> Desk<'a> {
    fn new(lab: &'a Lab, name: &str) -> Self {
        let dir = lab.fresh_dir(name);
        let desk = Self { lab, dir };
        let conf = lab.account().home.join(".config/containers");
        let _ = desk.typed(&format!("mkdir -p {}", conf.display())).success();
        let host = lab.registry().host();
        let table = |prefix: &str| {
            format!("[[registry]]\nprefix = \"{prefix}\"\nlocation = \"{host}\"\ninsecure = true\n")
        };
        let text = table("docker.io") + &table("registry.example.org");
        fs::write(conf.join("registries.conf"), text).expect("a directory of the user's");
        desk
    }

    fn registries_conf(&self) -> PathBuf {
        self.lab.account().home.join(".config/containers/registries.conf")
    }

    /// A line as the user types it.
    fn typed(&self, line: &str) -> Output {
        self.command(line).run()
    }

    fn command(&self, line: &str) -> Cmd {
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", self.lab.dir().join("bin").display());
        let bash = self.lab.user("bash").args(["-c", line]).cwd(&self.dir).limit(LIMIT);
        bash.env("PATH", path).env("GRUS_CONFIG", self.lab.site_file())
    }

    /// Pushes a made image so that the user finds it as `name`.
    fn push(&self, image: &str, name: &str) {
        let layout = ImageStore::default().layout(image).expect("the image can be made");
        self.lab.registry().push(&layout, name).expect("skopeo can push");
    }
}

impl Drop for Desk<'_> {
    fn drop(&mut self) {
        let _ = fs::remove_file(self.registries_conf());
        let _ = self.command("grus prune --keep 0").run();
    }
}

/// The commands in the column *Grus*, in order.
fn sheet(name: &str) -> Vec<String> {
    let text = document(name);
    let mut column = None;
    let mut all = vec![];
    for line in text.lines() {
        // A `|` in code is written `\|`.
        let cells: Vec<String> =
            line.replace("\\|", "\u{0}").split('|').map(|c| c.replace('\u{0}', "|")).collect();
        if !line.starts_with('|') {
            column = None;
        } else if let Some(at) = cells.iter().position(|cell| cell.trim() == "Grus") {
            column = Some(at);
        } else if let Some(cell) = column.and_then(|at| cells.get(at)) {
            // Every second piece between backquotes is code.
            let code = cell.split('`').skip(1).step_by(2).map(str::to_owned);
            all.extend(code.filter(|code| !code.starts_with("docker://")));
        }
    }
    all
}

/// Without Slurm, by a user to whom nothing is given but the programs: with /dev/fuse, and where it is refused.
fn every_line_of_the_readmes_docker_sheet_runs(lab: &Lab) {
    let account = lab.account();
    for file in ["/etc/subuid", "/etc/subgid"] {
        let given = fs::read_to_string(file).unwrap_or_default();
        let own = [account.name.clone(), account.uid.to_string()];
        let lines = given
            .lines()
            .filter(|line| line.split(':').next().is_some_and(|of| own.contains(&of.to_owned())));
        assert_eq!(lines.count(), 0, "{file} has an entry for {}", account.name);
    }
    let before = lab.snapshot();
    let lines = sheet("README.md");
    assert!(
        lines.len() >= 15 && lines.iter().filter(|line| line.starts_with("grus run ")).count() >= 5,
        "{lines:#?}"
    );
    for yes in [true, false] {
        let _fuse = Fuse::for_everyone(yes);
        let desk = Desk::new(lab, "docker");
        desk.push("debian", "library/ubuntu:24.04");
        for line in &lines {
            let run = match line.contains(" -it ") {
                true => desk.command(TERMINAL).env("LINE", line).run(),
                false => desk.typed(line),
            };
            assert!(run.status.success(), "{line}\n{run}");
        }
        let _ = desk.typed("grus rmi --force mine:1 ubuntu:24.04").success();
    }
    before.assert_nothing_left();
}

/// Runs $LINE on a terminal of script(1)'s, at which somebody types.
const TERMINAL: &str =
    "(sleep 2; echo 'test -t 0 && exit') | script --quiet --return --flush --command \"$LINE\" /dev/null";

fn every_line_of_the_cheat_sheet_runs(lab: &Lab) {
    let before = lab.snapshot();
    let desk = Desk::new(lab, "sheet");
    desk.push("debian", "library/ubuntu:24.04");
    let lines = sheet("docs/cheat-sheet.md");
    assert!(lines.len() > 25, "{lines:#?}");
    let _ = desk.typed("grus pull -q ubuntu:24.04").success();
    let step =
        "echo $SLURM_JOB_ID.$SLURM_STEP_ID >id.new; mv id.new id; while [ ! -e stop ]; do sleep 0.1; done";
    let running = lab.srun(&["-N1", "-n1", "--container-image=ubuntu:24.04", "sh", "-c", step]);
    let running = running.cwd(&desk.dir).limit(LIMIT).spawn();
    let id = || fs::read_to_string(desk.dir.join("id")).unwrap_or_default().trim().to_owned();
    assert!(wait_until(Duration::from_secs(60), || !id().is_empty()), "the step did not start");
    // A command that this build does not have yet is not in its list of commands either.
    let commands = desk.typed("grus --help").success().stdout;
    let has = |line: &str| {
        let mut words = line.split_whitespace();
        let (program, command) = (words.next(), words.next().unwrap_or_default());
        program != Some("grus")
            || command == "save"
            || commands.lines().any(|help| help.split_whitespace().next() == Some(command))
    };
    let mut left_out = vec![];
    for line in &lines {
        if !has(line) {
            left_out.push(line.clone());
            continue;
        }
        let run = desk.command(line).env("STEP", id()).run();
        assert!(run.status.success(), "{line}\n{run}");
    }
    fs::write(desk.dir.join("stop"), "").expect("a fresh directory");
    let _ = running.wait().success();
    assert!(left_out.iter().all(|line| line.starts_with("grus run ")), "no such commands: {left_out:?}");
    drop(desk);
    before.assert_nothing_left();
}

/// A piece of the tutorial: a file to write, or commands with what they print.
enum Piece {
    File {
        name: String,
        content: String,
    },
    /// `builder`: on the reader's own computer, where images are built.
    Session {
        builder: bool,
        lines: Vec<String>,
    },
}

fn tutorial() -> Vec<Piece> {
    let text = document("docs/tutorial.md");
    let mut pieces = vec![];
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(kind) = line.strip_prefix("```") else { continue };
        let block: Vec<String> =
            lines.by_ref().take_while(|line| *line != "```").map(str::to_owned).collect();
        match kind.split_once(' ') {
            Some((_, name)) if name != "builder" => {
                pieces.push(Piece::File { name: name.to_owned(), content: block.join("\n") + "\n" })
            }
            _ if kind.starts_with("console") => {
                pieces.push(Piece::Session { builder: kind.ends_with(" builder"), lines: block })
            }
            _ => {}
        }
    }
    pieces
}

/// Whether `said` has the lines of `shown` in order; `…` in a line is anything, and a line of it alone any lines.
fn agrees(shown: &[String], said: &str) -> Result<(), String> {
    let mut said = said.lines();
    for line in shown.iter().filter(|line| line.trim() != "…") {
        if !said.by_ref().any(|other| fits(line.trim_end(), other.trim_end())) {
            return Err(line.clone());
        }
    }
    Ok(())
}

fn fits(pattern: &str, line: &str) -> bool {
    let Some((before, after)) = pattern.split_once('…') else { return pattern == line };
    let Some(rest) = line.strip_prefix(before) else { return false };
    (0..=rest.len()).filter(|at| rest.is_char_boundary(*at)).any(|at| fits(after, &rest[at..]))
}

fn the_tutorial_is_true(lab: &Lab) {
    let before = lab.snapshot();
    let desk = Desk::new(lab, "tutorial");
    desk.push("debian", "library/debian:12");
    let builder = Builder::new(&desk);
    let mut commands = 0;
    for piece in tutorial() {
        match piece {
            Piece::File { name, content } => {
                fs::write(desk.dir.join(&name), content).expect("a fresh directory");
                lab.give(&desk.dir.join(&name));
            }
            Piece::Session { builder: on_builder, lines } => {
                let starts: Vec<usize> = (0..lines.len()).filter(|at| lines[*at].starts_with("$ ")).collect();
                for (number, start) in starts.iter().enumerate() {
                    let end = starts.get(number + 1).copied().unwrap_or(lines.len());
                    let typed = &lines[*start][2..];
                    let run = if on_builder { builder.typed(typed) } else { desk.typed(typed) };
                    assert!(run.status.success(), "$ {typed}\n{run}");
                    let said = format!("{}{}", run.stdout, run.stderr);
                    if let Err(line) = agrees(&lines[*start + 1..end], &said) {
                        panic!("$ {typed}\ndoes not print: {line}\n{run}");
                    }
                    commands += 1;
                }
            }
        }
    }
    assert!(commands >= 10, "{commands} commands");
    builder.clean();
    drop(desk);
    before.assert_nothing_left();
}

/// The reader's own computer: `docker` is Podman with a storage of its own, and its builds read this machine's list of
/// Debian's mirrors, as everything here does that installs packages.
struct Builder<'a> {
    desk: &'a Desk<'a>,
    state: PathBuf,
}

impl<'a> Builder<'a> {
    fn new(desk: &'a Desk<'a>) -> Self {
        let state = desk.lab.dir().join("builder");
        let bin = state.join("bin");
        fs::create_dir_all(&bin).expect("the lab's directory is writable");
        let storage = state.display();
        let podman = format!(
            "podman --root {storage}/store --runroot {storage}/run --storage-driver vfs --cgroup-manager cgroupfs"
        );
        let shim = format!(
            "#!/bin/sh\nexport CONTAINERS_REGISTRIES_CONF={}\ncase $1 in\n\
             build) shift; exec {podman} build --quiet --isolation=chroot --network=host -v /etc/apt:/etc/apt:ro \"$@\";;\n\
             save) shift; exec {podman} save --quiet \"$@\";;\n*) exec {podman} \"$@\";;\nesac\n",
            desk.registries_conf().display()
        );
        let docker = bin.join("docker");
        fs::write(&docker, shim).expect("a fresh directory");
        fs::set_permissions(&docker, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("root may");
        Self { desk, state }
    }

    fn typed(&self, line: &str) -> Output {
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.state.join("bin").display());
        let bash = Cmd::new("bash").args(["-c", line]).cwd(&self.desk.dir).env("PATH", path).limit(LIMIT);
        let run = bash.run();
        // What was carried over belongs to the user there.
        for entry in fs::read_dir(&self.desk.dir).into_iter().flatten().flatten() {
            self.desk.lab.give(&entry.path());
        }
        run
    }

    fn clean(&self) {
        let _ = self.typed("docker rmi --all --force").success();
        let _ = fs::remove_dir_all(&self.state);
    }
}
