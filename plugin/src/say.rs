//! What people get to read: one line of what failed and one with the way out, through Slurm's own
//! log, which leads to srun's standard error or the batch output.

use grus_core::refusal::printable;
#[cfg(not(test))]
use slurm_spank::{slurm_spank_log, spank_log, LogLevel};

/// A failure. `node` is given on a node, where several may speak at once.
pub fn failure(node: Option<&str>, what: &str, hint: Option<&str>) {
    let node = node.map_or(String::new(), |node| format!("{node}: "));
    spank_log(LogLevel::Error, &format!("grus: {node}{}", one_line(what)));
    if let Some(hint) = hint {
        slurm_spank_log(&format!("hint: {}", one_line(hint)));
    }
}

/// What was done at the end of a step, on a node.
pub fn result(node: &str, text: &str) {
    slurm_spank_log(&format!("grus: {node}: {}", one_line(text)));
}

/// A warning or a piece of advice at submission; silent under `--quiet`.
pub fn note(text: &str) {
    spank_log(LogLevel::Info, &format!("grus: {}", one_line(text)));
}

/// Something the user should know, said on a node, from where only errors reach the user.
pub fn warning(text: &str) {
    spank_log(LogLevel::Error, &format!("grus: warning: {}", one_line(text)));
}

/// The makers of messages clean what they quote; this is for what comes from elsewhere.
fn one_line(text: &str) -> String {
    match text.contains(char::is_control) {
        true => printable(text),
        false => text.to_owned(),
    }
}

/// A unit test is not loaded by Slurm and has none of its functions.
#[cfg(test)]
use without_slurm::{slurm_spank_log, spank_log, LogLevel};
#[cfg(test)]
mod without_slurm {
    pub use slurm_spank::LogLevel;

    pub fn spank_log(_: LogLevel, text: &str) {
        slurm_spank_log(text);
    }

    pub fn slurm_spank_log(text: &str) {
        println!("{text}");
    }
}
