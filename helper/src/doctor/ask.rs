//! Asks other programs, and never waits for one longer than it may take.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use crate::failure::reason;

/// Most bytes kept of what a program says.
const MOST: u64 = 1 << 20;

/// What a program said.
#[derive(Debug)]
pub struct Answer {
    /// Whether it ended well.
    pub ok: bool,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub enum Silence {
    /// There is no such program.
    NoProgram,
    /// It does not start.
    Broken(String),
    /// It did not end in time, and was ended.
    TooLong,
}

impl Answer {
    /// The last line of what it complained of, or of what it said.
    pub fn last_words(&self) -> &str {
        let last = |text: &'_ str| text.trim_end().rfind('\n').map_or(0, |at| at + 1);
        let err = self.err.trim_end();
        match err.is_empty() {
            true => self.out.trim_end().get(last(&self.out)..).unwrap_or_default(),
            false => err.get(last(err)..).unwrap_or_default(),
        }
    }
}

/// Runs a program with `input` until it ends, but no longer than `limit`.
pub fn ask(
    program: impl AsRef<Path>,
    args: &[&str],
    input: &str,
    limit: Duration,
) -> Result<Answer, Silence> {
    let mut command = Command::new(program.as_ref());
    command.args(args).env("LC_ALL", "C");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Silence::NoProgram,
        _ => Silence::Broken(reason(&e)),
    })?;
    if let Some(mut stdin) = child.stdin.take() {
        // All inputs here fit into a pipe; a program that does not read its input says so by its end.
        let _ = stdin.write_all(input.as_bytes());
    }
    let out = child.stdout.take().map(collected);
    let err = child.stderr.take().map(collected);
    let end = Instant::now() + limit;
    let ok = ended(&mut child, end).ok_or(Silence::TooLong)?;
    // A program that it left behind may hold the pipes open.
    let text = |from: Option<Receiver<String>>| {
        let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(100));
        from.and_then(|from| from.recv_timeout(left).ok()).unwrap_or_default()
    };
    Ok(Answer { ok, out: text(out), err: text(err) })
}

/// Whether it ended well; None if it had to be ended.
fn ended(child: &mut Child, end: Instant) -> Option<bool> {
    let mut pause = Duration::from_millis(1);
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status.success()),
            Ok(None) if Instant::now() < end => std::thread::sleep(pause),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn collected(from: impl Read + Send + 'static) -> Receiver<String> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = vec![];
        let _ = from.take(MOST).read_to_end(&mut bytes);
        let _ = send.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receive
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_heard_and_one_that_hangs_is_ended() {
        let second = Duration::from_secs(10);
        let said = ask("sh", &["-c", "cat; echo a >&2; echo b >&2; exit 3"], "in", second).expect("it runs");
        assert_eq!((said.ok, said.out.as_str(), said.last_words()), (false, "in", "b"));
        assert_eq!(ask("/no/such", &[], "", second).expect_err("missing"), Silence::NoProgram);
        let start = Instant::now();
        let hangs = ask("sleep", &["60"], "", Duration::from_millis(100));
        assert_eq!(hangs.expect_err("ended"), Silence::TooLong);
        // What it left behind holds its output open.
        let left = ask("sh", &["-c", "sleep 60 & echo x"], "", Duration::from_millis(300));
        assert!(left.is_ok_and(|said| said.ok));
        assert!(start.elapsed() < second);
    }
}
