use super::*;

/// A node with these devices, an image with these paths.
struct Around(&'static [&'static str], &'static [&'static str]);

impl Surroundings for Around {
    fn device(&self, path: &AbsPath) -> bool {
        self.0.contains(&path.as_str())
    }

    fn image(&self, path: &AbsPath) -> bool {
        self.1.contains(&path.as_str())
    }
}

fn modules() -> Modules {
    let text = r#"
        [always]
        when = "always"
        conflicts = ["other"]
        [other]
        [fabric]
        when = "if device present"
        devices = ["/dev/cxi0", "/dev/cxi1"]
        [library]
        when = "if image has"
        image-has = ["/usr/lib/libnccl.so.2"]
        [quiet]
        devices = ["/dev/quiet"]
    "#;
    let modules: Modules = toml::from_str(text).expect("well formed");
    check(&modules).expect("well formed");
    modules
}

fn names(asked: Option<&str>, around: &Around) -> Result<Vec<String>, Refusal> {
    let asked = asked.map(Asked::parse).transpose()?;
    let modules = modules();
    let active = active(&modules, asked.as_ref(), Some(around))?;
    Ok(active.iter().map(|active| active.name.as_str().to_owned()).collect())
}

const BARE: Around = Around(&[], &[]);
const FULL: Around = Around(&["/dev/cxi1", "/dev/quiet"], &["/usr/lib/libnccl.so.2"]);

#[test]
fn a_container_gets_what_is_asked_for_and_what_suits_node_and_image() {
    for (asked, around, expected) in [
        (None, &BARE, &["always"][..]),
        (None, &FULL, &["always", "fabric", "library"]),
        (Some("quiet"), &FULL, &["quiet", "always", "fabric", "library"]),
        (Some("fabric,fabric"), &FULL, &["fabric", "always", "library"]),
        (Some("other"), &BARE, &["other"]),
        (Some("none"), &FULL, &[]),
        (Some("none,library"), &FULL, &["library"]),
    ] {
        assert_eq!(names(asked, around).expect("had").join(","), expected.join(","), "{asked:?}");
    }
}

#[test]
fn what_is_asked_for_is_had_or_refused() {
    for (asked, around, why, hint) in [
        ("fabirc", &FULL, "this site has no module 'fabirc'", "did you mean 'fabric'?"),
        ("zzzzz", &FULL, "this site has no module 'zzzzz'", "there are: always, fabric"),
        ("quiet", &BARE, "none of its devices", "run on nodes"),
        ("library", &BARE, "the image has nothing", "another image"),
        ("other,always", &FULL, "other and always exclude each other", "one of them"),
        ("", &FULL, "'' is no name of a module", "or none"),
        ("../x", &FULL, "'../x' is no name of a module", "or none"),
    ] {
        let refusal = names(Some(asked), around).expect_err(asked);
        assert!(
            refusal.what.contains(why) && refusal.hint.is_some_and(|h| h.contains(hint)),
            "{}",
            refusal.what
        );
    }
}

#[test]
fn submission_counts_what_is_asked_for_and_what_comes_anywhere() {
    let modules = modules();
    for (asked, expected) in [("quiet,library", "quiet,library,always"), ("none,fabric", "fabric")] {
        let asked = Asked::parse(asked).expect("names");
        let active = active(&modules, Some(&asked), None).expect("known");
        let names: Vec<&str> = active.iter().map(|active| active.name.as_str()).collect();
        assert_eq!(names.join(","), expected);
    }
    assert!(active(&modules, Some(&Asked::parse("fabirc").expect("a name")), None).is_err());
}

#[test]
fn modules_that_cannot_be_meant_are_refused() {
    for (text, why) in [
        ("[a]\nwhen = 'if device present'", "module.a: 'if device present' needs devices"),
        ("[a]\nwhen = 'if image has'", "needs image-has"),
        ("[a]\nbinds = ['/a:x']", "'x' is not an absolute path"),
        ("[a]\nbinds = ['type=tmpfs,destination=/x']", "only binds are possible"),
        ("[a]\nlibraries = 'auto'", "libraries must name a host stack"),
        ("[a]\nconflicts = ['b']", "conflicts with 'b', which is no module"),
    ] {
        let modules: Modules = toml::from_str(text).expect(text);
        let error = check(&modules).expect_err(text);
        assert!(error.contains(why), "{error}");
    }
    for text in ["[a]\nwhen = 'sometimes'", "[none]\n", "['a b']\n", "[a]\nbind = []", "[a]\ndevices = ['x']"]
    {
        assert!(toml::from_str::<Modules>(text).is_err(), "{text}");
    }
}

#[test]
fn variables_are_joined_with_the_sites_above_all() {
    let text = r#"
        [a.environment]
        set = { A = "a", S = "a" }
        prepend = { P = "/a" }
        [b.environment]
        set = { A = "b", B = "b" }
        prepend = { P = "/b" }
        append = { P = "/end" }
        unset = ["U"]
    "#;
    let modules: Modules = toml::from_str(text).expect("well formed");
    let active: Vec<Active> =
        modules.iter().map(|(name, module)| Active { name, module, asked: false }).collect();
    let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
    let site = Rules { set: map(&[("S", "site")]), prepend: map(&[("P", "/site")]), ..Rules::default() };
    let expected = Rules {
        set: map(&[("A", "a"), ("B", "b"), ("S", "site")]),
        prepend: map(&[("P", "/site:/a:/b")]),
        append: map(&[("P", "/end")]),
        unset: vec!["U".into()],
        keep: vec![],
    };
    assert_eq!(rules(&active, &site), expected);
}
