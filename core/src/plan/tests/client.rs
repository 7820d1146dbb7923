//! The host's Slurm commands in a plan.

use super::*;

/// Debian's tree with a shell.
fn with_shell() -> Tree {
    Tree::debian().with(Kind::Directory, &["/bin"]).containing("/bin/sh", "")
}

#[test]
fn the_hosts_slurm_commands() {
    let mut case = Case::of(&["container-slurm"]);
    case.tree = with_shell();
    case.site = "repository.system = '/images'\n";
    case.golden("slurm");
    let plan = case.decide().expect("a plan");
    let passwd = plan.mounts.iter().find_map(|op| match op {
        Op::Text { destination, content, .. } if destination.as_str() == "/etc/passwd" => {
            Some(content.clone())
        }
        _ => None,
    });
    let passwd = String::from_utf8(passwd.expect("a passwd")).expect("UTF-8");
    let names: Vec<&str> = passwd.lines().filter_map(|line| line.split(':').next()).collect();
    assert_eq!(names, ["root", "slurm", "alice"], "Slurm looks up SlurmUser");
    // Commands beside /usr are at their own path; what a bind brings is not bound again.
    let mut case = Case::of(&["mount=/etc/slurm", "mount=/run/munge:/run/munge"]);
    case.tree = with_shell();
    case.site =
        "container.slurm = true\nslurm.commands = '/site'\nslurm.library-path = ['/site', '/usr/lib']\n";
    let plan = case.decide().expect("a plan");
    let script = plan.mounts.iter().find_map(|op| match op {
        Op::Text { content, executable: true, .. } => String::from_utf8(content.clone()).ok(),
        _ => None,
    });
    let script = script.expect("a script");
    assert!(
        script.contains("--library-path '/site:/run/grus/slurm/host/usr/lib' '/site'/\"${0##*/}\""),
        "{script}"
    );
    let shown = plan.to_string();
    assert_eq!(shown.matches(" on /etc/slurm ").count(), 1, "{shown}");
    assert!(shown.contains("bind      /site on /site (ro,site)"), "{shown}");
}

#[test]
fn slurm_commands_that_cannot_be_had() {
    let refused = |site: &'static str, tree: Tree, options: &'static [&'static str]| {
        let mut case = Case::of(options);
        (case.site, case.tree) = (site, tree);
        case.refused().to_string()
    };
    let what = refused("", Tree::debian(), &["container-slurm"]);
    assert!(what.starts_with("the image has no /bin/sh"), "{what}");
    let what = refused("slurm.commands = '/opt'\n", with_shell(), &["container-slurm"]);
    assert!(what.contains("this node has no /opt/srun"), "{what}");
    let what = refused("", with_shell(), &["container-slurm", "mount=type=tmpfs,destination=/run"]);
    assert!(what.contains("which the mount on /run covers"), "{what}");
    // What the site chooses for all does not keep an image of one program from running.
    let mut case = Case::of(&[]);
    case.site = "container.slurm = true\n";
    let plan = case.decide().expect("a plan").to_string();
    assert!(
        plan.contains("warning   no Slurm commands in the container: the image has no /bin/sh"),
        "{plan}"
    );
    assert!(!plan.contains("/run/grus"), "{plan}");
    let mut case = Case::of(&["no-container-slurm"]);
    (case.site, case.tree) = ("container.slurm = true\n", with_shell());
    assert!(!case.decide().expect("a plan").to_string().contains("/run/grus"));
}
