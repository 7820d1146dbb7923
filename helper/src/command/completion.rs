//! `grus completion`: scripts for shells, made from the same definition as `--help`; names of images by asking `grus
//! images` when they are wanted, which the scripts' maker cannot do.

use clap::{Command, CommandFactory};
use clap_complete::Shell;

use crate::cli::Cli;
use crate::failure::Failure;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  source <(grus completion bash)
  grus completion zsh > ~/.zfunc/_grus
  grus completion fish > ~/.config/fish/completions/grus.fish";

/// Arguments of `grus completion`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The shell
    #[arg(value_name = "SHELL", value_parser = ["bash", "zsh", "fish"])]
    shell: String,
}

/// Ids of arguments that are images of the repository.
const IMAGES: [&str; 4] = ["image", "images", "names", "words"];

/// A name may have a `:` in it, at which bash breaks words: what stands before the last one is not replaced. `VALUES` has
/// a line for each command, of options that take the next word for themselves.
const BASH: &str = r#"
_grus_names() {
    local line=${COMP_LINE:0:COMP_POINT} current names values
    current=${line##* }
    _grus "$@"
    case ${COMP_WORDS[1]} in
VALUES        *) return ;;
    esac
    [[ $current == -* || $3 =~ $values ]] && return
    names=$(grus images --format '{{.Reference}}' 2>/dev/null)
    COMPREPLY=($(compgen -W "$names" -- "$current"))
    [[ $COMP_WORDBREAKS != *:* ]] || COMPREPLY=("${COMPREPLY[@]#"${current%"${current##*:}"}"}")
}

"#;

const ZSH: &str = r#"
_grus_images() {
    local -a names
    names=(${(f)"$(grus images --format '{{.Reference}}' 2>/dev/null)"})
    compadd -a names
    _files
}
"#;

const FISH: &str = r#"
complete -c grus -n "__fish_grus_using_subcommand COMMANDS" -a "(grus images --format '{{.Reference}}' 2>/dev/null)"
"#;

impl Args {
    pub(super) fn run(self) -> Result<(), Failure> {
        let (shell, finish): (_, fn(String, &[&Command]) -> String) = match self.shell.as_str() {
            "zsh" => (Shell::Zsh, zsh),
            "fish" => (Shell::Fish, fish),
            _ => (Shell::Bash, bash),
        };
        let mut script = vec![];
        let mut whole = visible();
        clap_complete::generate(shell, &mut whole, "grus", &mut script);
        let of_images: Vec<&Command> = whole.get_subcommands().filter(|c| takes_images(c)).collect();
        output::print(&finish(String::from_utf8_lossy(&script).into_owned(), &of_images))
    }
}

fn bash(script: String, commands: &[&Command]) -> String {
    match script.rsplit_once("\nif [[ ") {
        Some((functions, registered)) => {
            let registered = registered.replace("complete -F _grus ", "complete -F _grus_names ");
            let values = |command: &&Command| {
                format!("        {}) values='{}' ;;\n", names(command).join("|"), takes_values(command))
            };
            let values: String = commands.iter().map(values).collect();
            format!("{functions}{}if [[ {registered}", BASH.replace("VALUES", &values))
        }
        None => script,
    }
}

/// A pattern of the options whose value is the next word: `--env`, `-e`, and `-ite`, but not `-eA`.
fn takes_values(command: &Command) -> String {
    let options: Vec<_> = command
        .get_arguments()
        .filter(|arg| !arg.is_positional() && arg.get_action().takes_values())
        .collect();
    let long = options.iter().flat_map(|arg| arg.get_long_and_visible_aliases().unwrap_or_default());
    let mut all: Vec<String> = long.map(|name| format!("--{name}")).collect();
    let short: String =
        options.iter().flat_map(|arg| arg.get_short_and_visible_aliases().unwrap_or_default()).collect();
    if !short.is_empty() {
        all.push(format!("-[^-{short}]*[{short}]"));
    }
    format!("^({})$", all.join("|"))
}

fn zsh(script: String, _: &[&Command]) -> String {
    let own = |line: &str| {
        let words = line.trim_start().trim_start_matches(['\'', '*', ':']);
        IMAGES.iter().any(|id| words.strip_prefix(id).is_some_and(|rest| rest.starts_with(" -- ")))
    };
    let lines = script.split_inclusive('\n').map(|line| match own(line) {
        true => line.replace(":_default'", ":_grus_images'"),
        false => line.to_owned(),
    });
    // Before the function is called for the first time, at the end of the file.
    let script: String = lines.collect();
    match script.rsplit_once("\nif [ \"$funcstack[1]\"") {
        Some((functions, call)) => format!("{functions}{ZSH}\nif [ \"$funcstack[1]\"{call}"),
        None => script,
    }
}

fn fish(script: String, commands: &[&Command]) -> String {
    let commands: Vec<String> = commands.iter().flat_map(|command| names(command)).collect();
    script + &FISH.replace("COMMANDS", &commands.join(" "))
}

fn takes_images(command: &Command) -> bool {
    command.get_positionals().any(|arg| IMAGES.contains(&arg.get_id().as_str()))
}

fn names(command: &Command) -> Vec<String> {
    command.get_name_and_visible_aliases().into_iter().map(str::to_owned).collect()
}

/// The command line without what is hidden from its help: the scripts' maker would offer that, too.
fn visible() -> Command {
    let whole = Cli::command();
    let shown = whole.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    Command::new("grus").args(whole.get_arguments().cloned()).subcommands(shown)
}
