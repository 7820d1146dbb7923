//! `grus`, the daemonless program of Grus. All of it is in the library beside.

fn main() -> std::process::ExitCode {
    grus_helper::cli::main()
}
