use super::*;
use crate::options::by_name;
use crate::swap::Brought;

fn cwd() -> AbsPath {
    AbsPath::parse("/work/dir").expect("static")
}

/// Builds a request from `name=value` words, as srun would hand them over.
fn typed(words: &[&str]) -> Result<Request, Refusal> {
    let mut request = Request::default();
    for word in words {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        request.set(by_name(name).expect("a known option").opt, value, &cwd())?;
    }
    Ok(request)
}

#[test]
fn a_full_request_survives_the_journey() {
    let request = typed(&[
        "container-image=ubuntu:24.04",
        "mount=type=bind,source=/a b,destination=/c",
        "mount=/x",
        "writable-volatile=/usr/local,/opt",
        "writable-volatile=/srv",
        "no-container-mount-home",
        "container-mount-workdir",
        "container-pull=never",
        "container-batch",
        "container-mpi=cray",
        "container-mounts=/y:/z:ro,tmpfs:/t",
        "container-workdir=/app",
        "container-env=A,B=1",
        "container-writable",
        "container-name=dev:create",
        "container-save=../out.sqsh",
        "container-remap-root",
        "container-entrypoint",
        "container-unshare=net,uts",
        "container-slurm",
    ])
    .expect("all good");
    assert_eq!(request.mounts.len(), 4);
    assert_eq!(request.save.as_ref().map(AbsPath::as_str), Some("/work/out.sqsh"));
    assert_eq!(request.mpi, Some(Mode::Stack("cray".into())));
    assert_eq!(request.volatile.len(), 3);
    assert_eq!(Request::decode(&request.encode().expect("short")).expect("own text"), request);
}

#[test]
fn images_are_references_files_or_none() {
    let image = |v: &str| typed(&[&format!("container-image={v}")]).expect(v).image.expect("set");
    assert_eq!(image("none"), Image::None);
    for (typed, path) in
        [("/a/b.sqsh", "/a/b.sqsh"), ("./b", "/work/dir/b"), ("../b", "/work/b"), ("../../../b", "/b")]
    {
        assert_eq!(image(typed), Image::File(AbsPath::parse(path).expect(path)));
    }
    for (typed, meant) in [
        ("docker://ubuntu:24.04", "docker.io/library/ubuntu:24.04"),
        ("nvcr.io#nvidia/pytorch:25.09", "nvcr.io/nvidia/pytorch:25.09"),
        ("docker://me@nvcr.io#nvidia/pytorch", "nvcr.io/nvidia/pytorch:latest"),
    ] {
        assert!(matches!(image(typed), Image::Reference(r) if r.to_string() == meant), "{typed}");
    }
    let refusal = typed(&["container-image=dockerd://mine"]).expect_err("an engine's");
    assert!(refusal.hint.expect("a way out").contains("docker save mine | grus import - mine"));
    assert!(
        matches!(image("ubuntu"), Image::Reference(r) if r.to_string() == "docker.io/library/ubuntu:latest")
    );
}

#[test]
fn a_step_with_another_image_mpi_or_module_loses_the_jobs_rulings() {
    let mut job = typed(&["container-image=a"]).expect("good");
    let ruling = Ruling::unknown(Digest::from_bytes(&[1; 32]), "why".into());
    let first = Brought::parse("m=x").expect("good");
    job.module_ruling = Some(Box::new(ModuleRuling { first, ruling: ruling.clone() }));
    job.ruling = Some(Box::new(ruling));
    assert_eq!(Request::decode(&job.encode().expect("short")).expect("own text"), job);
    let step = |words: &[&str]| {
        let step = typed(words).expect("good").over(job.clone());
        assert_eq!(step.ruling.is_some(), step.module_ruling.is_some());
        step.ruling.is_some()
    };
    assert!(step(&[]) && step(&["mount=/x"]));
    assert!(!step(&["container-image=b"]) && !step(&["container-mpi=image"]));
    assert!(!step(&["container-module=none"]));
    let bad = "\"cached\":[\"../x\"]";
    let text = job.encode().expect("short");
    let (front, back) = text.split_once("\"module_ruling\"").expect("both");
    let replaced = |text: &str| text.replace("\"cached\":[]", bad);
    for hostile in
        [replaced(front) + "\"module_ruling\"" + back, format!("{front}\"module_ruling\"{}", replaced(back))]
    {
        assert!(Request::decode(&hostile).expect_err("hostile").what.contains("is no file name"));
    }
}

#[test]
fn contradictions_are_refused_and_repeats_are_not() {
    assert!(typed(&["container-image=a", "container-image=a", "mount=/x", "mount=/x"]).is_ok());
    for (words, why) in [
        (
            &["container-image=a", "container-image=b"][..],
            "--container-image is given twice with different values",
        ),
        (
            &["container-mount-home", "no-container-mount-home"],
            "--container-mount-home and --no-container-mount-home contradict each other",
        ),
        (&["writable-volatile=/"], "--writable-volatile=/: '/' as a whole cannot be made writable"),
        (&["writable-volatile=usr"], "--writable-volatile=usr: 'usr' is not an absolute path"),
        (&["container-pull=maybe"], "--container-pull=maybe is not known"),
        (
            &["container-writable", "container-readonly"],
            "--container-writable and --container-readonly contradict each other",
        ),
        (&["container-env=A=1", "container-env=A=2"], "--container-env is given twice with different values"),
        (&["container-env=A B"], "--container-env=A B: 'A B' is no name of a variable"),
        (&["container-workdir=app"], "--container-workdir=app: 'app' is not an absolute path"),
        (&["container-save=./"], "--container-save=./: it names no file"),
        (&["container-unshare=net,pid"], "--container-unshare=pid is not known"),
    ] {
        let refusal = typed(words).expect_err(why);
        assert_eq!(refusal.what, why);
        assert!(refusal.hint.is_some());
    }
}

#[test]
fn a_step_inherits_what_it_does_not_say() {
    let mut job = typed(&["container-image=a", "mount=/x", "no-container-mount-home"]).expect("good");
    job.resolved = Some(Resolved { path: AbsPath::parse("/i").expect("static"), digest: None });
    let inherits = Request::default().over(job.clone());
    assert_eq!(inherits, job);
    let other = typed(&["container-image=b", "mount=/y"]).expect("good").over(job.clone());
    assert_eq!(other.resolved, None, "the job's file is not the step's image");
    assert_eq!(other.mounts, typed(&["mount=/y"]).expect("good").mounts);
    assert_eq!(other.mount_home, Some(false));
    let none = typed(&["container-image=none"]).expect("good").over(job);
    assert!(!none.wants_container());
}

#[test]
fn options_without_an_image_are_named() {
    assert_eq!(
        typed(&["mount=/x", "container-pull=never"]).expect("good").pointless(),
        ["mount", "container-pull"]
    );
    assert!(typed(&["mount=/x", "container-image=none"]).expect("good").pointless().is_empty());
}

/// What a user could have put into the variable, and what is wrong with it.
const HOSTILE_REQUESTS: &[(&str, &str)] = &[
    ("nothing", ""),
    ("a word", "junk"),
    ("a number", "7"),
    ("a NUL", "\0"),
    ("cut off", r#"{"image":"#),
    ("followed by another", r#"{}{}"#),
    ("an unknown option", r#"{"unknown":1}"#),
    ("an option twice", r#"{"writable":true,"writable":false}"#),
    ("a list of what is no request", "[7]"),
    ("an image that is a number", r#"{"image":7}"#),
    ("an image of two kinds", r#"{"image":{"file":"/a","reference":"a"}}"#),
    ("a relative image", r#"{"image":{"file":"relative"}}"#),
    ("an image above", r#"{"image":{"file":"/a/../../etc/shadow"}}"#),
    ("an image with a NUL", r#"{"image":{"file":"/a\u0000b"}}"#),
    ("a reference that is a path", r#"{"image":{"reference":"../../x"}}"#),
    ("a resolved file with a NUL", r#"{"resolved":{"path":"/a\u0000b","digest":null}}"#),
    ("a resolved file above", r#"{"resolved":{"path":"/../x","digest":null}}"#),
    ("a digest that is a path", r#"{"resolved":{"path":"/a","digest":"sha256:../../../etc/shadow"}}"#),
    (
        "a destination above",
        r#"{"mounts":[{"what":{"bind":{"source":"/a","recursive":true}},"destination":"/b/../../c"}]}"#,
    ),
    (
        "the root as a destination",
        r#"{"mounts":[{"what":{"bind":{"source":"/a","recursive":true}},"destination":"/"}]}"#,
    ),
    ("the root left out", r#"{"mounts":[{"what":"nothing","destination":"/./"}]}"#),
    (
        "a relative destination",
        r#"{"mounts":[{"what":{"bind":{"source":"/a","recursive":true}},"destination":"b"}]}"#,
    ),
    (
        "a relative source",
        r#"{"mounts":[{"what":{"bind":{"source":"a","recursive":true}},"destination":"/b"}]}"#,
    ),
    ("a mount of no kind", r#"{"mounts":[{"what":{"overlay":{"lower":"/etc"}},"destination":"/b"}]}"#),
    (
        "a mount with the devices of the host",
        r#"{"mounts":[{"what":{"bind":{"source":"/a","recursive":true,"devices":true}},"destination":"/b"}]}"#,
    ),
    (
        "a mount opened as root",
        r#"{"mounts":[{"what":{"bind":{"source":"/root","recursive":true}},"destination":"/b","opener":"site"}]}"#,
    ),
    // To tmpfs(5), no size is no limit.
    (
        "a tmpfs of size 0",
        r#"{"mounts":[{"what":{"tmpfs":{"size":0,"mode":448,"huge":null}},"destination":"/t"}]}"#,
    ),
    (
        "a tmpfs with options of the kernel's",
        r#"{"mounts":[{"what":{"tmpfs":{"size":4096,"mode":448,"huge":"always,uid=0"}},"destination":"/t"}]}"#,
    ),
    (
        "a scratch of all bytes",
        r#"{"mounts":[{"what":{"scratch":{"size":18446744073709551615}},"destination":"/t"}]}"#,
    ),
    ("a relative volatile directory", r#"{"volatile":["usr"]}"#),
    ("the root as a volatile directory", r#"{"volatile":["/"]}"#),
    ("a volatile directory above", r#"{"volatile":["/usr/../../etc"]}"#),
    ("a working directory above", r#"{"workdir":"/a/../../b"}"#),
    ("variables that are a text", r#"{"env":"LD_PRELOAD=/x"}"#),
    ("a name that is a path", r#"{"name":"../../run"}"#),
    ("a name with a slash", r#"{"name":"a/b"}"#),
    ("a file to save that is above", r#"{"save":"/tmp/../etc/shadow"}"#),
    ("namespaces that are not offered", r#"{"namespaces":{"user":true}}"#),
    ("a ruling of another format", r#"{"ruling":{"format":9,"profiles":null,"in_use":[],"swap":{}}}"#),
    ("a ruling that is a path", r#"{"ruling":"/etc/grus/stacks/x.toml"}"#),
];

#[test]
fn hostile_text_on_the_node_is_refused() {
    let set = |n| format!(r#"{{"what":{{"squashfs":{{"source":"/s"}}}},"destination":"/d{n}"}}"#);
    let servers = format!(r#"{{"mounts":[{}]}}"#, (0..17).map(set).collect::<Vec<_>>().join(","));
    let many = format!(r#"{{"volatile":[{}]}}"#, vec![r#""/a""#; 300].join(","));
    let long = format!("{}{{}}", " ".repeat(MAX_ENCODED));
    let deep = format!("{}{}", r#"{"image":"#.repeat(5000), "}".repeat(5000));
    let large = [("servers", &servers), ("many", &many), ("long", &long), ("deep", &deep)];
    let large = large.map(|(name, text)| (name, text.as_str()));
    for (name, text) in HOSTILE_REQUESTS.iter().copied().chain(large) {
        let refusal = Components::decode(text).and_then(|all| all.of(None)).expect_err(name);
        assert!(!refusal.what.contains('\n') && refusal.hint.is_some(), "{name}");
        assert!(!refusal.what.contains("LD_PRELOAD"), "{name}: what is in it is not told: {refusal}");
    }
}

#[test]
fn a_request_too_long_for_one_variable_is_refused_at_submission() {
    let mut request = Request::default();
    for i in 0..MAX_MOUNTS {
        let word = format!("/{}{i}", "long/".repeat(100));
        request.set(Opt::Mount, &word, &cwd()).expect("fits the list");
    }
    assert!(request.encode().expect_err("too long").hint.is_some());
}
