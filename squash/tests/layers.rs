//! What layers mean: each rule of the format with the smallest layers that show it.

mod fixture;

use fixture::tar::*;
use fixture::{image, sources, tree_of, Kind, Tree};
use grus_squash::{Error, MergeFault, Options, TarFault};

/// `path` or `path=content`, directories with a slash, in order; the root left out.
fn names(tree: &Tree) -> Vec<String> {
    let mut out = vec![];
    for (path, item) in tree.iter().filter(|(path, _)| !path.is_empty()) {
        let path = String::from_utf8_lossy(path);
        out.push(match item.kind {
            Kind::Dir => format!("{path}/"),
            Kind::Symlink => format!("{path}->{}", String::from_utf8_lossy(&item.data)),
            _ => format!("{path}={}", String::from_utf8_lossy(&item.data)),
        });
    }
    out
}

#[track_caller]
fn check(layers: Vec<Vec<Entry>>, want: &[&str]) -> Tree {
    let tree = tree_of(&layers.into_iter().map(layer).collect::<Vec<_>>());
    assert_eq!(names(&tree), want);
    tree
}

#[track_caller]
fn refused(layers: Vec<Vec<Entry>>) -> Error {
    let layers: Vec<_> = layers.into_iter().map(layer).collect();
    image(&sources(&layers), &Options::default()).map(|(_, summary)| summary).expect_err("must be refused")
}

#[test]
fn whiteout_takes_from_lower_layers_only_in_either_order() {
    let lower = vec![dir("d"), file("d/a", "old"), file("d/b", "old")];
    check(vec![lower.clone(), vec![whiteout("d/.wh.a")]], &["d/", "d/b=old"]);
    check(vec![lower.clone(), vec![whiteout("d/.wh.a"), file("d/a", "new")]], &["d/", "d/a=new", "d/b=old"]);
    check(vec![lower.clone(), vec![file("d/a", "new"), whiteout("d/.wh.a")]], &["d/", "d/a=new", "d/b=old"]);
    check(vec![lower.clone(), vec![whiteout(".wh.d"), file("d/new", "")]], &["d/", "d/new="]);
    check(vec![lower.clone(), vec![file("d/new", ""), whiteout(".wh.d")]], &["d/", "d/new="]);
    check(
        vec![lower, vec![whiteout("d/.wh.never"), whiteout("no/such/.wh.x")]],
        &["d/", "d/a=old", "d/b=old"],
    );
}

#[test]
fn opaque_hides_lower_content_in_any_order() {
    let lower = vec![dir("d"), file("d/a", "old"), dir("d/sub"), file("d/sub/b", "old")];
    let want = ["d/", "d/1=", "d/2=", "d/sub/", "d/sub/c="];
    for at in 0..=4 {
        let mut upper = vec![dir("d"), file("d/1", ""), file("d/sub/c", ""), file("d/2", "")];
        upper.insert(at, whiteout("d/.wh..wh..opq"));
        check(vec![lower.clone(), upper], &want);
    }
    check(vec![lower, vec![whiteout(".wh..wh..opq"), file("x", "")]], &["x="]);
}

#[test]
fn an_opaque_directory_in_place_of_a_symlink_spares_what_that_led_to() {
    let lower = || vec![dir("usr"), dir("usr/lib"), file("usr/lib/so", "1"), symlink("lib", "usr/lib")];
    for upper in [
        vec![dir("lib"), whiteout("lib/.wh..wh..opq"), file("lib/x", "")],
        vec![whiteout("lib/.wh.so"), dir("lib"), file("lib/x", "")],
    ] {
        check(vec![lower(), upper], &["lib/", "lib/x=", "usr/", "usr/lib/", "usr/lib/so=1"]);
    }
    // Without a directory of its own, a marker acts where entries would land.
    check(vec![lower(), vec![whiteout("lib/.wh.so")]], &["lib->usr/lib", "usr/", "usr/lib/"]);
}

#[test]
fn types_change_between_layers() {
    let lower = vec![dir("d"), file("d/x", "x"), file("f", "f"), symlink("s", "d")];
    check(vec![lower.clone(), vec![file("d", "now a file")]], &["d=now a file", "f=f", "s->d"]);
    check(vec![lower.clone(), vec![dir("f"), file("f/in", "")]], &["d/", "d/x=x", "f/", "f/in=", "s->d"]);
    check(vec![lower.clone(), vec![dir("s")]], &["d/", "d/x=x", "f=f", "s/"]);
    let tree = check(vec![lower, vec![dir("d").mode(0o700).owner(5, 6)]], &["d/", "d/x=x", "f=f", "s->d"]);
    let d = &tree[&b"d"[..]];
    assert_eq!((d.mode, d.uid, d.gid), (0o700, 5, 6));
}

#[test]
fn hard_links_cross_layers_and_outlive_names() {
    let base = || vec![file("a", "data").mode(0o640).owner(7, 8), file("b", "other"), hard("b2", "b")];
    let tree = check(vec![base(), vec![hard("l", "a")]], &["a=data", "b=other", "b2=other", "l=data"]);
    assert_eq!(tree[&b"l"[..]].inode, tree[&b"a"[..]].inode);
    assert_eq!((tree[&b"l"[..]].mode, tree[&b"l"[..]].uid), (0o640, 7), "a link has its target's metadata");
    // Its first name goes in a later layer: that layer's data are read in a second pass.
    let layers = [base(), vec![whiteout(".wh.b"), file("a", "new")]].map(layer);
    let (bytes, summary) = image(&sources(&layers), &Options::default()).expect("conversion");
    assert_eq!(names(&fixture::reader::Image::open(&bytes).tree()), ["a=new", "b2=other"]);
    assert_eq!((summary.second_passes, summary.hidden_bytes, summary.dead_bytes), (1, 4, 0));
    // Linked in one layer, deleted in the next.
    let layers = vec![base(), vec![hard("l", "a")], vec![whiteout(".wh.a"), hard("l2", "l")]];
    let tree = check(layers, &["b=other", "b2=other", "l=data", "l2=data"]);
    assert_eq!(tree[&b"l"[..]].inode, tree[&b"l2"[..]].inode);
    // A name rewritten leaves the link group.
    check(vec![base(), vec![file("b", "own")]], &["a=data", "b=own", "b2=other"]);
    // To itself, to a symlink, through a symlink.
    check(vec![base(), vec![hard("a", "a")]], &["a=data", "b=other", "b2=other"]);
    let layers =
        vec![vec![dir("d"), file("d/f", "1"), symlink("s", "d")], vec![hard("x", "s/f"), hard("y", "s")]];
    check(layers, &["d/", "d/f=1", "s->d", "x=1", "y->d"]);
}

#[test]
fn parents_are_made_and_resolved_inside_the_root() {
    let tree = check(vec![vec![file("a/b/c", "")]], &["a/", "a/b/", "a/b/c="]);
    let a = &tree[&b"a"[..]];
    assert_eq!((a.mode, a.uid, a.gid, u64::from(a.mtime)), (0o755, 0, 0, EPOCH));
    let lower =
        || vec![dir("real"), symlink("rel", "real"), symlink("abs", "/real"), symlink("up", "../../real")];
    for (through, want) in [("rel/f", "real/f="), ("abs/f", "real/f="), ("up/f", "real/f=")] {
        let tree = tree_of(&[layer(lower()), layer([file(through, "")])]);
        assert!(names(&tree).contains(&want.to_string()), "{through}: {:?}", names(&tree));
    }
    check(
        vec![vec![symlink("dangling", "new/place")], vec![file("dangling/f", "")]],
        &["dangling->new/place", "new/", "new/place/", "new/place/f="],
    );
}

#[test]
fn contradictions_are_refused_by_name() {
    let fault = |layers| match refused(layers) {
        Error::Merge { layer, path, what } => (layer, path, what),
        other => panic!("{other}"),
    };
    let loops = vec![vec![symlink("a", "b"), symlink("b", "a"), file("a/x", "")]];
    assert_eq!(fault(loops), ("L0".into(), "a/x".into(), MergeFault::SymlinkLoop));
    let below_file = vec![vec![file("f", "")], vec![file("f/x", "")]];
    assert_eq!(fault(below_file), ("L1".into(), "f/x".into(), MergeFault::ParentNotDirectory));
    assert_eq!(fault(vec![vec![hard("x", "none")]]).2, MergeFault::LinkTargetMissing);
    assert_eq!(fault(vec![vec![dir("d"), hard("x", "d")]]).2, MergeFault::LinkToDirectory);
    assert_eq!(fault(vec![vec![file(".", "")]]).2, MergeFault::RootNotDirectory);
    // A root that is a link: what comes after it would go where it leads (CVE-2021-29136 was umoci's).
    let lead_away = vec![vec![symlink(".", "/etc")], vec![file("passwd", "")]];
    assert_eq!(fault(lead_away).2, MergeFault::RootNotDirectory);
    assert_eq!(
        refused(vec![vec![file("f", "")], vec![hard("x", "none")]]).to_string(),
        "layer L1, x: hard link to a name that does not exist"
    );
    for bad in ["../x", "a/../../x", "/..", ".wh.", "d/.wh..."] {
        let error = refused(vec![vec![file(bad, "")]]);
        assert!(matches!(&error, Error::Tar { what: TarFault::Name(_), .. }), "{bad}: {error}");
    }
}

#[test]
fn names_are_made_plain() {
    check(
        vec![vec![dir("./"), dir("./d/"), file("./d//f", "1"), file("/abs", "2"), file("d/../up", "3")]],
        &["abs=2", "d/", "d/f=1", "up=3"],
    );
    let tree = check(vec![vec![dir("./").mode(0o711).owner(3, 4)]], &[]);
    assert_eq!((tree[&b""[..]].mode, tree[&b""[..]].uid), (0o711, 3));
}

#[test]
fn the_last_duplicate_in_a_layer_wins() {
    check(vec![vec![file("f", "first"), file("f", "second")]], &["f=second"]);
    check(vec![vec![file("f", "1"), hard("l", "f"), file("f", "2")]], &["f=2", "l=1"]);
    let tree =
        check(vec![vec![dir("d").mode(0o700), file("d/x", ""), dir("d").mode(0o755)]], &["d/", "d/x="]);
    assert_eq!(tree[&b"d"[..]].mode, 0o755);
}

#[test]
fn bookkeeping_of_aufs_is_no_content() {
    check(
        vec![vec![
            file("a", ""),
            file(".wh..wh.aufs", ""),
            dir(".wh..wh.plnk"),
            file(".wh..wh.plnk/1.2", "x"),
        ]],
        &["a="],
    );
}

#[test]
fn aufs_kept_files_of_several_names_where_their_links_lead() {
    let layer = |content: &str| {
        vec![dir(".wh..wh.plnk"), file(".wh..wh.plnk/1.2", content), hard("a", ".wh..wh.plnk/1.2")]
    };
    let lower = || [layer("old"), vec![hard("b", ".wh..wh.plnk/1.2")]].concat();
    let tree = check(vec![lower()], &["a=old", "b=old"]);
    assert_eq!(tree[&b"a"[..]].inode, tree[&b"b"[..]].inode);
    // Another layer has another file by the same number.
    check(vec![lower(), layer("new")], &["a=new", "b=old"]);
    let lost = refused(vec![layer("x"), vec![hard("c", ".wh..wh.plnk/1.2")]]);
    assert!(matches!(lost, Error::Merge { what: MergeFault::LinkTargetMissing, .. }), "{lost}");
}

#[test]
fn no_layers_and_empty_layers_make_an_empty_root() {
    assert_eq!(names(&tree_of(&[])), [""; 0]);
    check(vec![vec![], vec![]], &[]);
}
