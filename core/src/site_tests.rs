use super::*;

#[test]
fn each_value_in_force_is_told_with_its_origin() {
    let files = [
        ("a.toml", "mounts.site = [\"/a\"]\nmounts.home = false\n[environment.set]\nA = \"1\"\n[module.x]\nabout = \"X\"\n"),
        ("b.toml", "[mounts]\nsite = [\"/b:/c:ro\"]\nhome = true\n"),
    ];
    let files = files.map(|(name, text)| (name.to_owned(), text.to_owned()));
    let all = Site::in_force(&files).expect("valid");
    assert_eq!(all.len(), KEYS.len() + 1);
    let of = |name: &str| {
        let one = all.iter().find(|one| one.key == name).expect(name);
        (one.text(), one.from.join(" "))
    };
    assert_eq!(of("mounts.site"), ("[\"/a\", \"/b:/c:ro\"]".into(), "a.toml b.toml".into()));
    assert_eq!(of("mounts.home"), ("true".into(), "b.toml".into()), "the last one's value");
    assert_eq!(of("environment.set"), ("{ \"A\" = \"1\" }".into(), "a.toml".into()));
    assert_eq!(of("mounts.tmp"), ("true".into(), String::new()));
    assert_eq!(of("module.x"), ("{ \"about\" = \"X\" }".into(), "a.toml".into()));
    assert!(Site::in_force(&[("c".into(), "mounts.hom = true".into())]).is_err());
}

fn site(text: &str) -> Result<Site, Refusal> {
    Site::parse(&[("grus.toml".into(), text.into())])
}

#[test]
fn without_a_file_the_defaults_hold() {
    let site = Site::defaults();
    assert_eq!(site.security.user_images, UserImages::Fuse);
    assert_eq!(site.pull.policy, PullPolicy::Missing);
    assert!(site.mounts.home && site.mounts.workdir && site.mounts.tmp && !site.batch.container);
    assert_eq!(site.repository.user, "{home}/.local/share/grus");
}

#[test]
fn later_files_replace_values_and_add_to_lists() {
    let files = [
        ("a".into(), "[mounts]\nhome = false\nsite = ['/x']\n[environment.set]\nA = '1'\n".to_owned()),
        ("b".into(), "[mounts]\nsite = ['/y:/z:ro']\n[environment.set]\nB = '2'\n".to_owned()),
    ];
    let site = Site::parse(&files).expect("both are good");
    assert!(!site.mounts.home);
    let mounts: Vec<String> = site.site_mounts().iter().map(ToString::to_string).collect();
    assert_eq!(mounts, ["/x on /x (rw)", "/y on /z (ro)"]);
    assert_eq!(site.environment.set.len(), 2);
}

const HOSTILE_SITES: &[(&str, &str)] = &[
    ("[mounts]\nhoem = true", "unknown key 'mounts.hoem'; did you mean 'mounts.home'?"),
    ("[mount]\nhome = true", "unknown key 'mount'; did you mean 'mounts'?"),
    ("bananas = 1", "unknown key 'bananas'"),
    ("[mounts]\nhome = 'yes'", "invalid type: string \"yes\", expected a boolean"),
    ("[security]\nuser-images = 'x'", "unknown variant `x`, expected one of `fuse`, `kernel`, `refuse`"),
    ("[mounts]\nsite = ['/a:b']", "mount '/a:b': 'b' is not an absolute path"),
    ("[volatile]\nsize = 'big'", "volatile.size: 'big' is not a size such as 8g or 50%"),
    ("[volatile]\nsize = '0%'", "volatile.size: '0%' is not a size such as 8g or 50%"),
    ("[scratch]\nsize-limit = '50%'", "scratch.size-limit: '50%' is not a size"),
    ("[scratch]\ndir = 'local'", "scratch.dir: 'local' is not an absolute path"),
    ("[security]\nsquashfuse = 'squashfuse_ll'", "'squashfuse_ll' is not an absolute path"),
    ("[security]\nseccomp = 'all'", "unknown variant `all`, expected `none` or `default`"),
    ("[node-cache]\nsize = '50%'", "node-cache.size: '50%' is not a size"),
    ("[node-cache]\ndir = '../cache'", "node-cache.dir: '../cache' is not an absolute path"),
    ("[named]\ndir = '/run/../grus'", "named.dir: '/run/../grus' has '..' in it"),
    ("[pull]\ncommand = ''", "'' is not an absolute path"),
    ("[pull]\ncommand = ['/bin/sh', '-c']", "invalid type: sequence, expected a string"),
    ("[environment]\nset = 'LD_PRELOAD=/x'", "invalid type: string \"LD_PRELOAD=/x\", expected a map"),
    ("[mounts]\nhome = true\nhome = false", "duplicate key"),
];

#[test]
fn what_is_wrong_is_named_with_its_file() {
    for (text, why) in HOSTILE_SITES.iter().copied() {
        let refusal = site(text).expect_err(text);
        assert!(refusal.what.starts_with("the site file grus.toml is wrong: "), "{refusal}");
        assert!(refusal.what.ends_with(why), "{refusal}");
        assert!(refusal.hint.is_some() && !refusal.what.contains('\n'));
    }
    assert!(site("[mounts]\nhome = \n").expect_err("cut off").what.contains("line 2"));
}

#[test]
fn a_volatile_directory_on_disk_has_a_size_in_bytes() {
    let dir = "[volatile]\ndir = '/local'\n";
    let refusal = site(dir).expect_err("the default is a share of memory");
    assert_eq!(
        refusal.what,
        "volatile.dir /local is on a disk, and volatile.size '50%' is a share of memory"
    );
    assert!(refusal.hint.is_some());
    let files = [("a".into(), dir.to_owned()), ("b".into(), "volatile.size = '100g'\n".to_owned())];
    let both = Site::parse(&files).expect("one file has the directory, another the size");
    assert_eq!(both.volatile.dir, AbsPath::parse("/local").ok());
    assert_eq!((Site::defaults().volatile.dir, Site::defaults().scratch.dir), (None, None));
}

#[test]
fn modules_are_the_sites_own_and_the_examples_are_good() {
    let files = [
        ("a".into(), "[module.one]\nwhen = 'always'\nbinds = ['/a']\n".to_owned()),
        ("b".into(), "[module.one]\nbinds = ['/b']\n[module.two]\nconflicts = ['one']\n".to_owned()),
    ];
    let both = Site::parse(&files).expect("files add to a module");
    let names: Vec<&str> = both.module.keys().map(|name| name.as_str()).collect();
    assert_eq!(
        (names.join(" ").as_str(), both.module.values().map(|m| m.binds.len()).max()),
        ("one two", Some(2))
    );
    for (text, why) in [
        ("[module.x]\nwhne = 'always'", "unknown field `whne`"),
        ("module = 1", "unknown key 'module'"),
        ("[modul.x]\n", "did you mean 'module'?"),
        ("[module.x]\nwhen = 'if image has'", "module.x: 'if image has' needs image-has"),
        ("[module.x]\nconflicts = ['y']", "module.x: it conflicts with 'y', which is no module"),
    ] {
        let refusal = site(text).expect_err(text);
        assert!(refusal.what.contains(why) && refusal.hint.is_some(), "{refusal}");
    }
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../slurm-conf/grus.d");
    let mut all = vec![];
    for entry in std::fs::read_dir(dir).expect("slurm-conf/grus.d").flatten() {
        let text = std::fs::read_to_string(entry.path()).expect("an example");
        let example = site(&text).unwrap_or_else(|refusal| panic!("{}: {refusal}", entry.path().display()));
        assert!(!example.module.is_empty() && text.contains("Copy to /etc/grus/grus.d"));
        all.push((entry.path().display().to_string(), text));
    }
    assert!(Site::parse(&all).expect("together").module.len() > all.len());
}

#[test]
fn repository_paths_are_filled_in() {
    let environment = BTreeMap::from([("SCRATCH".to_owned(), "/s/a".to_owned())]);
    let who = Who { user: "alice", home: "/home/alice", uid: 7, environment: &environment };
    let at = |t: &str| expand(t, &who).map(|p| p.to_string());
    assert_eq!(at("{home}/g").as_deref(), Ok("/home/alice/g"));
    assert_eq!(at("/x/{user}-{uid}/g").as_deref(), Ok("/x/alice-7/g"));
    assert_eq!(at("${SCRATCH}/g").as_deref(), Ok("/s/a/g"));
    for bad in ["{group}/g", "${UNSET}/g", "{home", "relative"] {
        assert!(at(bad).is_err(), "{bad}");
    }
}

#[test]
fn every_key_is_described() {
    for key in KEYS {
        assert!(key.name.contains('.') && key.text.ends_with('.'), "{}", key.name);
    }
}

#[test]
fn the_shipped_file_is_made_from_the_table() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../slurm-conf/grus.toml");
    if std::env::var_os("GRUS_GOLDEN").is_some() {
        std::fs::write(file, annotated_file()).expect("slurm-conf is writable");
    }
    let shipped = std::fs::read_to_string(file).expect("slurm-conf/grus.toml exists");
    assert_eq!(shipped, annotated_file(), "run with GRUS_GOLDEN=1 to accept");
    assert_eq!(site(&shipped).expect("it is a good site file"), Site::defaults());
    let uncommented: String = shipped
        .lines()
        .map(|l| if l.starts_with('#') && !l.starts_with("# ") { &l[1..] } else { l })
        .collect::<Vec<_>>()
        .join("\n");
    assert_eq!(site(&uncommented).expect("every default is valid"), Site::defaults());
}
