//! Pages made from the tables of options and keys: spank_grus(8) and grus.toml(5), in man(7) roff, and
//! docs/options.md.

use crate::environment::{JOBS_OWN, LEAKS};
use crate::options::variables::{pyxis_variable, variable};
use crate::options::TABLE;
use crate::site::{KEYS, MODULES, MODULE_KEYS};

/// spank_grus(8): the options Grus adds to srun, sbatch and salloc, and how the plugin is set up.
pub fn plugin_page() -> String {
    let mut page = head("SPANK_GRUS", 8, "spank_grus", "containers for Slurm steps");
    page.push_str(
        ".SH SYNOPSIS\n.B srun\n[\\fIoptions\\fR] \\fB--container-image=\\fIREF|PATH|none\\fR \\fIcommand\\fR\n\
         .PP\nIn \\fIplugstack.conf\\fR: \\fBrequired spank_grus.so\\fR [\\fBconfig=\\fIPATH\\fR]\n\
         .SH DESCRIPTION\nStarts every task of a Slurm step inside a container image. The options below are \
         options of srun, sbatch and salloc, on the command line and on #SBATCH lines. A batch script stays on \
         the host; each srun in it inherits the container and may override every option or opt out with \
         \\fB--container-image=none\\fR. A step that asks for a container gets that container or fails: no task \
         ever runs on the bare host instead.\n.SH OPTIONS\n",
    );
    for row in TABLE {
        let value = row.value.map_or(String::new(), |v| format!("=\\fI{}\\fR", roff(v)));
        page.push_str(&format!(".TP\n\\fB\\-\\-{}\\fR{value}\n{}\n", roff(row.name), roff(row.text)));
    }
    page.push_str(&variables_section());
    page.push_str(&in_the_container());
    page.push_str(
        ".SH DIAGNOSTICS\nA container that cannot be had is one line of what failed, 'grus: NODE: ...', and one with the \
         way out, 'hint: ...', on the task's standard error (a batch job's output file); each task exits with 1, and so \
         do srun, sbatch and salloc at submission. The journal of the node has a record of each launch and refusal: \
         \\fBjournalctl -t grus _UID=0 GRUS_JOB=\\fIID\\fR. \\fBgrus plan\\fR shows what a container would have, \
         \\fBgrus explain\\fR why a library was swapped or not, \\fBgrus doctor\\fR whether the node is well.\n\
         .SH FILES\n.TP\n\\fI/etc/grus/grus.toml\\fR, \\fI/etc/grus/grus.d/*.toml\\fR\nThe site's configuration, \
         see \\fBgrus.toml\\fR(5).\n.TP\n\\fI/etc/grus/stacks/*.toml\\fR\nThe host's MPI stacks, see HOST STACKS \
         there.\n.SH SEE ALSO\n\\fBgrus\\fR(1), \\fBgrus.toml\\fR(5), \\fBsrun\\fR(1), \\fBplugstack.conf\\fR(5)\n",
    );
    page
}

/// What tasks find.
fn in_the_container() -> String {
    format!(
        ".SH IN THE CONTAINER\nThe image, read only; /proc, /sys (read only), /dev and /tmp of the node; the \
         user's home and the job's working directory at their own paths; the node's hosts and resolv.conf; a \
         passwd and group that know the user and all the user's groups. Tasks start in the job's working \
         directory, or in the image's WorkingDir where that is not mounted. GRUS_IMAGE names the image.\n.PP\n\
         The image's ENV applies over the job's environment, but does not replace {}. Variables of the host that \
         name its files are dropped: {}. Of the image's configuration, ENV, WorkingDir and (where asked for) \
         ENTRYPOINT are used. USER, CMD, Labels, StopSignal, Volumes and ports are not: tasks run as the job's \
         user, with the command and the signals that Slurm gives them.\n",
        roff(&JOBS_OWN.join(", ")),
        roff(&LEAKS.join(", "))
    )
}

/// What a file of stacks/ holds: the format of `stack::Stack`.
const HOST_STACKS: &str = "\
.SH HOST STACKS\nA host stack is an MPI of the host, or a libfabric alone, with everything it needs: a file \
\\fIstacks/NAME.toml\\fR beside grus.toml, NAME being what users write (\\fB--container-mpi=NAME\\fR). \
\\fBgrus-host-scan\\fR(1) writes it; what is not of [[library]] may be edited. Examples: \
/usr/share/doc/grus/stacks.\n\
.TP\n\\fBformat\\fR = 1\n\
.TP\n\\fBdescription\\fR\nWhat it is, in a line.\n\
.TP\n\\fBmachine\\fR\nOf uname \\-m; other nodes do not use it.\n\
.TP\n\\fBexample\\fR = true\nIt is never used.\n\
.TP\n\\fBdevices\\fR\nPaths below /dev that it needs; a trailing * matches any ending.\n\
.TP\n\\fB[[mpi]]\\fR\n\\fBfamily\\fR (mpich, openmpi, abi), \\fBversion\\fR for people, \\fBpmi\\fR: what it speaks with \
srun, of pmi2, pmix, cray_shasta. None for a libfabric alone.\n\
.TP\n\\fB[[path]]\\fR\nA file or directory that it needs at run time, bound at its own \\fBpath\\fR: \\fBwith\\fR what (mpi, \
the default, fabric, glibc); \\fBoptional\\fR, a node without it still works; \\fBreplace\\fR, also over what the image \
has there.\n\
.TP\n\\fB[environment]\\fR\n\\fBset\\fR: whatever image and job say; \\fBdefault\\fR: where the job has no value; \
\\fBprepend\\fR.\n\
.TP\n\\fB[[library]]\\fR\nOne of its files, as the scan read it. Only \\fBrole\\fR may be edited: mpi, fabric and pmi are always the \
host's where its MPI is used; plugin is opened at run time; shared is the image's own where that suffices; glibc \
see mpi.glibc.\n";

/// Which variable stands for which option.
fn variables_section() -> String {
    let names: Vec<String> = TABLE.iter().filter_map(variable).collect();
    format!(
        ".SH ENVIRONMENT\nEach option is a variable, too: {}. Names that Pyxis has may begin with PYXIS_ instead of \
         GRUS_. A flag is 1 or 0 (true or false, yes or no); 0 means the opposite option where there is one, such as a \\-\\-no\\- form. \
         The command line and #SBATCH lines win over variables, and variables over what a step inherits from its \
         job; a list on the command line replaces the variable's. sbatch and salloc take their variables in: the \
         script does not see them again, and may set them anew for its steps. Variables without an image have no \
         effect. Components of one srun ('srun A : B') may have different containers; those of a heterogeneous sbatch or salloc, \
         and of an srun with \\-\\-het\\-group, must ask for the same. A job that comes by slurmrestd has no options but its environment, which each srun in it reads. \
         Windows (srun \\-\\-x11) need the cookie that Slurm keeps in TmpFS of slurm.conf: where that is not /tmp, the \
         site binds it (mounts.site) or sets X11Parameters=home_xauthority.\n",
        roff(&names.join(", "))
    )
}

/// grus.toml(5): every key of the site's configuration.
pub fn site_page() -> String {
    let mut page = head("GRUS.TOML", 5, "grus.toml", "the site's configuration of Grus");
    page.push_str(
        ".SH SYNOPSIS\n\\fI/etc/grus/grus.toml\\fR\n.br\n\\fI/etc/grus/grus.d/*.toml\\fR\n\
         .br\n\\fI/etc/grus/stacks/*.toml\\fR\n.SH DESCRIPTION\nTOML. \
         The files are read in order of name; a later value replaces an earlier one, a later list is added to \
         it. Unknown keys are refused. Without grus.toml the defaults hold. The files and every directory above them must belong to root and be \
         writable by root alone, or no container starts.\n.SH KEYS\n",
    );
    for key in KEYS {
        page.push_str(&format!(
            ".TP\n\\fB{}\\fR = {}\n{}\n",
            roff(key.name),
            roff(key.default),
            roff(key.text)
        ));
    }
    page.push_str(&format!(".SH MODULES\n{}\n", roff(MODULES)));
    for key in MODULE_KEYS {
        page.push_str(&format!(
            ".TP\n\\fB{}\\fR = {}\n{}\n",
            roff(key.name),
            roff(key.default),
            roff(key.text)
        ));
    }
    page.push_str(HOST_STACKS);
    page.push_str(".SH SEE ALSO\n\\fBgrus\\fR(1), \\fBspank_grus\\fR(8)\n");
    page
}

/// docs/options.md: every option, with all the ways to give it and the test of each.
pub fn options_page() -> String {
    let mut page = String::from(
        "# Options\n\nMade from the table in `core/src/options`, as are `srun --help` and `man spank_grus`.\n\n\
         Each option is given on srun's command line, on an `#SBATCH` line, to salloc, or by a variable of the environment; of one \
         command, the command line has\nthe last word, then `#SBATCH` lines, then variables; a step takes from its job what it does not say itself. Lists are \
         replaced, not\nadded to: `--mount` and `--container-mounts` are one list, so one of them on the command line leaves out all mounts of variables and of the \
         job. A GRUS_ and a\nPYXIS_ variable of one option must not differ. \
         A flag's variable is 1 or 0, true or false, yes\nor no; a false one means the opposite option where there is one, such as a `--no-` form. sbatch and salloc take \
         their variables into the job and remove them from its environment.\n\n\
         Each cell is tested on a real Slurm, for its effect in the container: `cargo test --release --workspace --test slurm -- \
         options`.\n\n\
         | option | srun | `#SBATCH` | salloc | variable | Pyxis's variable |\n|---|---|---|---|---|---|\n\
         | *test* | `by_the_command_line_of_srun` | `by_lines_of_a_batch_script` | `by_salloc` | `by_variables` | \
         `by_the_variables_of_pyxis` |\n",
    );
    let code = |name: Option<String>| name.map_or("-".into(), |name| format!("`{name}`"));
    for row in TABLE {
        let value = row.value.map_or(String::new(), |v| format!("={v}").replace('|', "\\|"));
        let shared = row.name.strip_prefix("no-").and_then(crate::options::by_name).unwrap_or(row);
        let (own, pyxis) = (code(variable(shared)), code(pyxis_variable(shared)));
        page.push_str(&format!("| `--{}{value}` | yes | yes | yes | {own} | {pyxis} |\n", row.name));
    }
    page.push_str("\n## What they do\n\n");
    for row in TABLE {
        page.push_str(&format!("**`--{}`** {}\n\n", row.name, row.text));
    }
    page.truncate(page.trim_end().len());
    page.push('\n');
    page
}

fn head(title: &str, section: u8, name: &str, what: &str) -> String {
    format!(".TH {title} {section}\n.SH NAME\n{name} \\- {what}\n")
}

/// Text that roff shows as written: backslashes and hyphens escaped, no line begins with a control character.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    match text.starts_with(['.', '\'']) {
        true => format!("\\&{text}"),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_pages_are_made_from_the_tables() {
        let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs");
        let pages = [
            ("man/spank_grus.8", plugin_page()),
            ("man/grus.toml.5", site_page()),
            ("options.md", options_page()),
        ];
        for (name, page) in pages {
            let file = format!("{docs}/{name}");
            if std::env::var_os("GRUS_GOLDEN").is_some() {
                std::fs::write(&file, &page).expect("docs is writable");
            }
            assert_eq!(
                std::fs::read_to_string(&file).unwrap_or_default(),
                page,
                "GRUS_GOLDEN=1 accepts {name}"
            );
        }
    }
}
