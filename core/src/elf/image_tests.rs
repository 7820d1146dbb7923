use super::*;
use crate::elf::Symbols;

fn path(text: &str) -> AbsPath {
    AbsPath::parse(text).expect("static")
}

fn library(soname: &str) -> Object {
    Object { machine: "x86_64".into(), soname: Some(soname.into()), ..Object::default() }
}

#[test]
fn what_a_swap_needs_is_kept_and_nothing_else() {
    let mut c = Collector::default();
    c.object(
        path("/usr/lib/libc.so.6"),
        Object {
            provides: vec!["GLIBC_2.9".into(), "GLIBC_2.36".into(), "GLIBC_2.2.5".into()],
            ..library("libc.so.6")
        },
    );
    c.object(path("/usr/bin/ls"), Object { kind: crate::elf::Kind::Program, ..Object::default() });
    c.object(path("/usr/lib/python3/x.so"), Object::default());
    let user = Object { weak: Symbols::new(["MPI_Init"]), ..Object::default() };
    c.object(path("/usr/lib/python3/mpi.so"), user);
    c.link(path("/lib"), "usr/lib");
    c.link(path("/lib64"), "usr/lib64");
    c.link(path("/usr/lib64/libc.so.6"), "../lib/libc.so.6");
    c.link(path("/bin"), "usr/bin");
    c.link(path("/usr/lib/libc.so"), "libc.so.6");
    c.link(path("/usr/lib/dangling.so"), "nothing");
    c.link(path("/loop"), "loop");
    let facts = c.finish();
    assert_eq!(facts.libc, Libc::Glibc("2.36".into()));
    let kept: Vec<&str> = facts.objects.keys().map(AbsPath::as_str).collect();
    assert_eq!(kept, ["/usr/lib/libc.so.6", "/usr/lib/python3/mpi.so"]);
    let links: Vec<&str> = facts.links.keys().map(AbsPath::as_str).collect();
    assert_eq!(links, ["/lib", "/lib64", "/usr/lib/libc.so", "/usr/lib64/libc.so.6"]);
    assert!(facts.object("/lib64/libc.so.6").is_some());
    assert_eq!(facts.object("/lib/../lib/libc.so").map(|(p, _)| p.as_str()), Some("/usr/lib/libc.so.6"));
    assert_eq!(ImageFacts::parse(facts.to_json().as_bytes(), "x").expect("own text"), facts);
}

#[test]
fn hostile_facts_are_refused_in_one_line() {
    for bad in
        [&b"{"[..], b"[]", b"{\"version\":9,\"libc\":\"none\",\"objects\":{},\"links\":{},\"cache\":null}"]
    {
        let e = ImageFacts::parse(bad, "f\n").expect_err("must be refused");
        assert!(!e.what.contains('\n') && e.hint.is_some(), "{e}");
    }
    let relative = "{\"version\":1,\"libc\":\"none\",\"objects\":{\"../x\":{}},\"links\":{},\"cache\":null}";
    assert!(ImageFacts::parse(relative.as_bytes(), "f").is_err());
}

#[test]
fn library_names() {
    for good in
        ["libx.so", "libx.so.1", "libx-1.2.so.3.4.5", "mpi.cpython-311-x86_64-linux-gnu.so", "ld-linux.so.2"]
    {
        assert!(is_library_name(good), "{good}");
    }
    for bad in ["libx.a", "libx.so.py", "x.sox", "libmpi.so.12.debug", "bash"] {
        assert!(!is_library_name(bad), "{bad}");
    }
}
