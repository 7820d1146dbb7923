//! Whom tasks are shown as, what they go through, what they do not share.

use super::*;

fn with_entrypoint(options: &'static [&'static str], entrypoint: &[&str]) -> Case {
    let mut case = Case::of(options);
    case.image.entrypoint = entrypoint.iter().map(|word| (*word).to_owned()).collect();
    case.tree = Tree::debian().with(Kind::File, &["/opt/entry"]);
    case
}

#[test]
fn tasks_are_as_asked_for() {
    let options = &["container-remap-root", "container-unshare=net,uts", "container-entrypoint"];
    with_entrypoint(options, &["/opt/entry", "-c"]).golden("tasks");
}

#[test]
fn the_site_chooses_and_the_user_has_the_last_word() {
    const SITE: &str = "[container]\nremap-root = true\nentrypoint = true\n";
    let plan = |options| {
        let mut case = with_entrypoint(options, &["entry"]);
        case.site = SITE;
        case.decide().expect("good")
    };
    let said = plan(&[]);
    assert_eq!((said.remap_root, said.entrypoint), (true, vec!["entry".to_owned()]));
    let said = plan(&["no-container-remap-root", "no-container-entrypoint"]);
    assert_eq!((said.remap_root, said.entrypoint), (false, vec![]));
}

#[test]
fn an_entry_point_that_cannot_be_run_is_refused() {
    for (entrypoint, why) in [
        (&["./entry"][..], "'./entry' is neither an absolute path nor the name of a program"),
        (&["bin/entry", "x"], "'bin/entry' is neither an absolute path nor the name of a program"),
        (&["/opt/gone"], "'/opt/gone' is not in the image"),
        (&[""], "'' is no command"),
        (&["/opt/entry", "a\0b"], "'/opt/entry' is no command"),
    ] {
        let refusal = with_entrypoint(&["container-entrypoint"], entrypoint).refused();
        assert_eq!(refusal.what, format!("the image's ENTRYPOINT {why}"));
        assert!(refusal.hint.is_some());
        assert!(with_entrypoint(&[], entrypoint).decide().expect("not asked for").entrypoint.is_empty());
    }
    // What a mount brings, a task finds out.
    let mounted = with_entrypoint(&["container-entrypoint", "mount=/data:/x"], &["/x/entry"]);
    assert_eq!(mounted.decide().expect("good").entrypoint, ["/x/entry"]);
    assert!(with_entrypoint(&["container-entrypoint"], &[]).decide().expect("good").entrypoint.is_empty());
}
