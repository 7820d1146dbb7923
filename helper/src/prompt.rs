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

/// Reads a password from standard input.
pub fn password_from_stdin() -> Result<Secret, Failure> {
    password_from(io::stdin().lock())
}

/// All of `input` but one line break at its end. A password may have lines: keys of Google's registries are JSON.
fn password_from(input: impl Read) -> Result<Secret, Failure> {
    let mut text = String::new();
    let read = input.take(MAX_ANSWER + 1).read_to_string(&mut text);
    let text = text.strip_suffix('\n').map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t));
    match read {
        Ok(n) if n as u64 <= MAX_ANSWER && !text.is_empty() => Ok(Secret::new(text)),
        _ => Err(Refusal::user("standard input holds no password")
            .hint("pipe it into the command, for example: grus login -u NAME --password-stdin < FILE")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_the_whole_input_but_its_last_line_break() {
        let key = "{\n  \"type\": \"service_account\"\n}";
        let line = format!("{key}\n");
        for (input, password) in [
            ("secret", "secret"),
            ("secret\n", "secret"),
            ("secret\r\n", "secret"),
            ("secret\n\n", "secret\n"),
            (" s p ", " s p "),
            (key, key),
            (line.as_str(), key),
        ] {
            let read = password_from(input.as_bytes()).expect("a password");
            assert_eq!(read.expose(), password, "{input:?}");
        }
    }

    #[test]
    fn nothing_too_much_and_what_is_no_text_is_no_password() {
        let long = vec![b'x'; MAX_ANSWER as usize + 1];
        for input in [&b""[..], b"\n", b"\r\n", b"\xff\xfe", &long[..]] {
            let refused = password_from(input).expect_err("no password");
            assert!(refused.to_string().contains("holds no password") && refused.hint().is_some());
        }
        assert!(password_from(&long[1..]).is_ok());
    }
}
