//! Owns questions to the user at the terminal: a name, a password without echo, a secret from a pipe. It refuses
//! to ask where nobody sits, and keeps the terminal as it was, also on Ctrl-C.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;

use grus_core::refusal::Refusal;
use rustix::termios::{tcgetattr, tcsetattr, LocalModes, OptionalActions, Termios};

use crate::failure::Failure;
use crate::interrupt;
use crate::registry::Secret;

/// Longest answer in bytes. Access tokens of clouds are a few KiB.
const MAX_ANSWER: u64 = 64 << 10;

/// Asks for a line at the terminal.
pub fn line(question: &str) -> Result<String, Failure> {
    let terminal = terminal()?;
    ask(&terminal, question)
}

/// Asks for a password at the terminal, without echo.
pub fn password(question: &str) -> Result<Secret, Failure> {
    let terminal = terminal()?;
    let before = tcgetattr(&terminal).map_err(|e| broken(&e.into()))?;
    let quiet = Quiet::start(&terminal, before)?;
    let answer = ask(&terminal, question);
    drop(quiet);
    // The user's Enter was not echoed either.
    let _ = (&terminal).write_all(b"\n");
    Ok(Secret::new(answer?))
}

/// Reads a password from standard input, to its end; one line break at the end is not part of it.
pub fn password_from_stdin() -> Result<Secret, Failure> {
    let mut text = String::new();
    let read = io::stdin().lock().take(MAX_ANSWER + 1).read_to_string(&mut text);
    let text = text.strip_suffix('\n').map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t));
    match read {
        Ok(n) if n as u64 <= MAX_ANSWER && !text.is_empty() && !text.contains('\n') => Ok(Secret::new(text)),
        _ => Err(Refusal::user("standard input holds no password")
            .hint("pipe one line into the command, for example: grus login -u NAME --password-stdin < FILE")
            .into()),
    }
}

/// The terminal without echo, until dropped.
struct Quiet<'a> {
    terminal: &'a File,
    before: Termios,
}

impl<'a> Quiet<'a> {
    fn start(terminal: &'a File, before: Termios) -> Result<Self, Failure> {
        let mut quiet = before.clone();
        quiet.local_modes -= LocalModes::ECHO;
        let (again, restored) = (terminal.try_clone().map_err(|e| broken(&e))?, before.clone());
        interrupt::set_screen(Box::new(move |_| {
            let _ = tcsetattr(&again, OptionalActions::Now, &restored);
            let _ = (&again).write_all(b"\n");
        }));
        tcsetattr(terminal, OptionalActions::Flush, &quiet).map_err(|e| broken(&e.into()))?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        // There is no other terminal to complain on.
        let _ = tcsetattr(self.terminal, OptionalActions::Flush, &self.before);
        interrupt::set_screen(Box::new(|_| {}));
    }
}

fn ask(terminal: &File, question: &str) -> Result<String, Failure> {
    let mut to = terminal;
    to.write_all(question.as_bytes()).map_err(|e| broken(&e))?;
    let mut answer = String::new();
    BufReader::new(terminal.take(MAX_ANSWER)).read_line(&mut answer).map_err(|e| broken(&e))?;
    match answer.strip_suffix('\n') {
        Some(answer) if !answer.is_empty() => Ok(answer.to_owned()),
        _ => Err(Refusal::user("no answer was given").hint("run the command again").into()),
    }
}

/// The controlling terminal, wherever the standard streams lead.
fn terminal() -> Result<File, Failure> {
    OpenOptions::new().read(true).write(true).open("/dev/tty").map_err(|_| {
        Refusal::user("there is no terminal to ask for an account")
            .hint("give the account with --username NAME --password-stdin")
            .into()
    })
}

fn broken(error: &io::Error) -> Failure {
    Failure::io("use the terminal", Path::new("/dev/tty"), error)
}
