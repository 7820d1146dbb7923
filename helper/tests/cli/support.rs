//! A repository of its own for each test, and the program run in a bare environment.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// A directory with a repository in it.
pub struct Lab {
    pub dir: TempDir,
}

/// What a command said.
#[must_use = "an output nobody looks at proves nothing"]
#[derive(Debug)]
pub struct Output {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Lab {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a temporary directory") }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn repository(&self) -> PathBuf {
        self.path("repo")
    }

    /// The command, ready to run in the lab's directory with next to no environment.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_grus"));
        command.args(args).env_clear().env("PATH", "/usr/bin:/bin").env("HOME", self.dir.path());
        command.env("GRUS_REPOSITORY", self.repository()).current_dir(self.dir.path());
        command.env("GRUS_CONFIG", self.site());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// An empty site file, so that the machine's own has no say.
    fn site(&self) -> PathBuf {
        let site = self.path("grus.toml");
        if !site.exists() {
            fs::write(&site, "").expect("site file");
        }
        site
    }

    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Output {
        Output::of(self.command(args).output().expect("grus starts"))
    }

    /// Runs with `input` on standard input.
    pub fn pipe<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>, input: &[u8]) -> Output {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().expect("grus starts");
        // A command that refuses its input early closes the pipe; its exit says why.
        let _ = child.stdin.take().expect("a pipe").write_all(input);
        Output::of(child.wait_with_output().expect("grus ends"))
    }

    pub fn spawn<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Child {
        self.command(args).spawn().expect("grus starts")
    }

    /// Whatever a failed command must not leave: images, tags and temporary files.
    pub fn leftovers(&self) -> Vec<PathBuf> {
        files(&self.repository())
    }

    /// Nothing at all is in the repository.
    pub fn assert_empty(&self) {
        assert_eq!(self.leftovers(), Vec::<PathBuf>::new());
    }

    /// Every file that a tag or a listing leads to is whole, and `tmp/` is empty.
    pub fn assert_sound(&self) {
        assert_eq!(files(&self.repository().join("tmp")), Vec::<PathBuf>::new());
        let listed = self.run(["images"]).ok();
        assert_eq!(listed.err, "", "nothing is damaged");
    }
}

impl Output {
    pub fn of(output: std::process::Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// Failed with `code`, one line of what and one hint; nothing on standard output. Gives the two lines.
    pub fn refused(self, code: i32, what: &str) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        let lines: Vec<&str> = self.err.lines().collect();
        let [first, hint] = lines[..] else { panic!("not two lines: {self:?}") };
        assert!(first.starts_with("grus: ") && hint.starts_with("hint: "), "{self:?}");
        assert!(first.contains(what), "{what:?} is not in {self:?}");
        assert!(!self.err.contains(|c: char| c.is_control() && c != '\n'), "{self:?}");
        assert_eq!(self.out, "");
        self.err
    }
}

/// All files below `dir`, links not followed; none if there is no such directory.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = vec![];
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let entry = entry.expect("an entry");
        match entry.file_type().expect("its type").is_dir() {
            true => all.extend(files(&entry.path())),
            false => all.push(entry.path()),
        }
    }
    all
}

/// Compares with `tests/cli/golden/<name>`; `GRUS_GOLDEN=1` accepts what there is.
pub fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/golden").join(name);
    if std::env::var_os("GRUS_GOLDEN").is_some() {
        fs::write(&path, text).expect("golden file");
    }
    let accepted = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, accepted, "GRUS_GOLDEN=1 accepts {name}");
}
