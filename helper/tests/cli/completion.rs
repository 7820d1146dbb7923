//! What shells do with the completion scripts when a user presses the tabulator: commands, options, names of images.

use std::process::Command;

use crate::archives::simple_layout;
use crate::support::{Lab, Output};

/// `app:1` and `app:2` are there.
fn lab() -> Lab {
    let lab = Lab::new();
    let _ = simple_layout(lab.path("first"));
    for name in ["app:1", "app:2"] {
        let _ = lab.run(["import", "-q", "first", name]).ok();
    }
    let bin = lab.path("bin");
    std::fs::create_dir(&bin).expect("mkdir");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_grus"), bin.join("grus")).expect("symlink");
    lab
}

/// A shell in the lab, which finds `grus` by its PATH. None, and a word of it, where it is not installed.
fn shell(lab: &Lab, program: &str, args: &[&str]) -> Option<Output> {
    let grus = lab.command::<&str>([]);
    let mut command = Command::new(program);
    command.args(args).env_clear().envs(grus.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.env("PATH", format!("{}:/usr/bin:/bin", lab.path("bin").display())).env("TERM", "dumb");
    match command.current_dir(lab.dir.path()).output() {
        Ok(output) => Some(Output::of(output)),
        Err(error) => {
            eprintln!("SKIPPED: {program}: {error}");
            assert!(std::env::var("CI").is_err(), "{program} is missing; run ci/packages");
            None
        }
    }
}

#[test]
fn bash_completes_commands_options_and_images() {
    let lab = lab();
    let complete = |line: &str| {
        // As readline breaks words: at blanks, and at a `:`, which is a word.
        let words = line.replace(':', " : ");
        let script = format!(
            "source <(grus completion bash); COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}}; COMP_WORDS=({words}); \
             [[ $COMP_LINE != *' ' ]] || COMP_WORDS+=(''); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             complete -p grus | grep -q _grus_names || exit 9; \
             _grus_names grus \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let said = shell(&lab, "bash", &["--norc", "-c", &script]).expect("bash is everywhere").ok();
        assert_eq!(said.err, "", "{line}");
        said.out.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(complete("grus do"), ["doctor"]);
    assert_eq!(complete("grus images --for"), ["--format"]);
    assert!(complete("grus plan --container-").contains(&"--container-workdir".to_owned()));
    assert_eq!(complete("grus completion z"), ["zsh"]);
    assert!(!complete("grus s").contains(&"save-container".to_owned()), "what is hidden stays so");
    for command in ["inspect", "run", "rmi", "history", "save", "tag", "verify"] {
        assert_eq!(complete(&format!("grus {command} a")), ["app:1", "app:2"], "{command}");
    }
    assert_eq!(complete("grus run app:"), ["1", "2"], "what is before the colon stays");
    for options in [
        "run --rm",
        "run -it",
        "run -e A",
        "run -iteA",
        "run --env=A",
        "run -v /a:/b",
        "rmi -f",
        "verify --json",
    ] {
        assert_eq!(complete(&format!("grus {options} a")), ["app:1", "app:2"], "{options}");
    }
    for options in
        ["run -e", "run -ite", "run --net", "run --config", "run --rm --env-file", "inspect --format"]
    {
        let offered = complete(&format!("grus {options} a"));
        assert!(
            !offered.iter().any(|word| word.starts_with("app:")),
            "a value is no image: {options}: {offered:?}"
        );
    }
    assert!(!complete("grus inspect --format ").contains(&"app:1".to_owned()), "a value is no image");
    assert_eq!(complete("grus login a"), [""]);
}

#[test]
fn fish_completes_commands_options_and_images() {
    let lab = lab();
    let complete = |line: &str| {
        let script = format!("grus completion fish | source; complete -C '{line}'");
        let said = shell(&lab, "fish", &["--no-config", "-c", &script])?.ok();
        assert_eq!(said.err, "", "{line}");
        Some(
            said.out
                .lines()
                .map(|line| line.split('\t').next().unwrap_or_default().to_owned())
                .collect::<Vec<_>>(),
        )
    };
    let Some(commands) = complete("grus do") else { return };
    assert_eq!(commands, ["doctor"]);
    assert_eq!(complete("grus images --for").expect("fish"), ["--format"]);
    for options in ["", "--rm ", "-it ", "-e A=1 "] {
        assert_eq!(
            complete(&format!("grus run {options}ap")).expect("fish"),
            ["app:1", "app:2"],
            "{options}"
        );
    }
    assert!(!complete("grus run -e ap").expect("fish").contains(&"app:1".into()), "a value is no image");
    // Files are offered, too, behind what fish takes for a prefix.
    assert!(complete("grus save app:").expect("fish").starts_with(&["app:1".into(), "app:2".into()]));
}

#[test]
fn zsh_completes_commands_options_and_images() {
    let lab = lab();
    // A terminal of zsh's own, at which `line` and the tabulator are typed, and what is then on it is run by `echo`.
    let complete = |line: &str| {
        let script = r#"
            zmodload zsh/zpty
            zpty shell "zsh -f -i"
            zpty -w shell "PS1= PS2= RPS1= ; stty -echo; autoload -U compinit; compinit -u -D; source <(grus completion zsh); echo rea''dy"
            zpty -r -m shell line "*ready*"
            zpty -w -n shell "$1"$'\t'
            sleep 1
            zpty -w -n shell $'\x01echo \'<\'\x05\'>\'\n'
            zpty -r -m shell line "*>*"
            print -r -- "$line"
            zpty -d shell
        "#;
        let said = shell(&lab, "zsh", &["-f", "-c", script, "zsh", line])?.ok();
        Some(said.out)
    };
    let Some(commands) = complete("grus do") else { return };
    assert!(commands.contains("grus doctor"), "{commands:?}");
    for options in ["", "--rm ", "-it ", "-e A=1 "] {
        let images = complete(&format!("grus run {options}app")).expect("zsh");
        assert!(images.contains(&format!("grus run {options}app:")), "{images:?}");
    }
    let one = complete("grus inspect app:1").expect("zsh");
    assert!(one.contains("grus inspect app:1 "), "{one:?}");
    let option = complete("grus images --dig").expect("zsh");
    assert!(option.contains("--digests"), "{option:?}");
}
