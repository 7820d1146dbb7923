//! A directory as a layer: what the host's tree has, the image has.

mod fixture;

use std::fs::{self, File, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{symlink, FileExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fixture::host::tree_at;
use fixture::{assert_same, image, reader, torture};
use grus_squash::{DirectorySource, Error, Judge, Options, Verdict};

fn tree_in(dir: &Path) -> fixture::Tree {
    let source = [DirectorySource { path: dir.into(), judge: Arc::new(()) }];
    let (bytes, _) = image(&source, &Options::default()).expect("conversion");
    reader::Image::open(&bytes).tree()
}

#[test]
fn everything_in_a_tree_arrives() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("sub/deep")).expect("mkdir");
    fs::set_permissions(at("sub"), fs::Permissions::from_mode(0o2750)).expect("chmod");
    fs::write(at("sub/file"), torture::noise(300_000)).expect("write");
    fs::write(at("empty"), "").expect("write");
    fs::hard_link(at("sub/file"), at("another name")).expect("link");
    symlink("sub/file", at("symlink")).expect("symlink");
    symlink("x".repeat(1000), at("longlink")).expect("symlink");
    fs::write(at(&"n".repeat(255)), "long").expect("write");
    fs::write(at("\n\u{e9}*"), "odd").expect("write");
    let sparse = File::create(at("sparse")).expect("create");
    sparse.write_all_at(b"middle", 5 << 20).expect("write");
    sparse.write_all_at(b"end", (9 << 20) - 3).expect("write");
    sparse.set_len(12 << 20).expect("truncate");
    File::create(at("hole")).expect("create").set_len(3 << 20).expect("truncate");
    let old = File::create(at("old")).expect("create");
    old.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(7)).expect("utimes");
    if let Err(e) =
        rustix::fs::setxattr(at("empty"), "user.a=b", b"value\n\0x", rustix::fs::XattrFlags::empty())
    {
        eprintln!("SKIPPED xattrs: {e}");
    }
    rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
        .expect("mkfifo");
    if rustix::process::geteuid().is_root() {
        let device = rustix::fs::makedev(1, 3);
        let made = rustix::fs::mknodat(
            rustix::fs::CWD,
            at("null"),
            rustix::fs::FileType::CharacterDevice,
            0o666.into(),
            device,
        );
        if let Err(e) = made {
            eprintln!("SKIPPED device: {e}");
        }
        // On what cannot be opened. Not every file system takes them.
        for name in ["symlink", "fifo", "sub"] {
            let flags = rustix::fs::XattrFlags::empty();
            if let Err(e) = rustix::fs::lsetxattr(at(name), "trusted.grus", b"kept", flags) {
                eprintln!("SKIPPED trusted attributes: {e}");
            }
        }
        std::os::unix::fs::chown(at("old"), Some(2_000_000), Some(3_000_000)).expect("chown");
    }
    assert_same(tree_in(dir.path()), tree_at(dir.path()));
    // A socket is nobody's content.
    let before = tree_at(dir.path()).len();
    let _socket = UnixListener::bind(at("sub/socket")).expect("bind");
    assert_eq!(tree_in(dir.path()).len(), before);
}

#[test]
fn what_cannot_be_taken_over_is_an_error_by_name() {
    let fails = |path: &Path| {
        let source = [DirectorySource { path: path.into(), judge: Arc::new(()) }];
        image(&source, &Options::default()).map(|_| ()).expect_err("must fail")
    };
    let dir = tempfile::tempdir().expect("temporary directory");
    fs::write(dir.path().join(".wh.name"), "").expect("write");
    let error = fails(dir.path());
    assert!(matches!(error, Error::Source { .. }) && error.to_string().contains(".wh.name"), "{error}");
    let error = fails(&dir.path().join("none"));
    assert!(error.to_string().contains("No such file"), "{error}");
    let file = tempfile::NamedTempFile::new().expect("temporary file");
    file.as_file().write_all(b"no directory").expect("write");
    assert!(matches!(fails(file.path()), Error::Source { .. }));
}

/// The owner of the tree, who acts when it is asked about an entry: that is when the entry's name has been read.
struct Mallory {
    top: PathBuf,
    at: &'static str,
    instead: PathBuf,
}

impl Judge for Mallory {
    fn entry(&self, path: &Path, _: &Metadata) -> io::Result<Verdict> {
        if path == Path::new(self.at) {
            fs::rename(self.top.join("a"), self.top.join("b"))?;
            symlink(&self.instead, self.top.join("a"))?;
        }
        Ok(Verdict::Take)
    }
}

#[test]
fn no_link_that_comes_meanwhile_leads_out_of_the_tree() {
    for at in ["a", "a/.ssh", "a/.ssh/id_rsa", "a/.ssh/link"] {
        let dir = tempfile::tempdir().expect("temporary directory");
        let (top, roots) = (dir.path().join("rootfs"), dir.path().join("root"));
        for (home, content) in [(&top.join("a"), "decoy"), (&roots, "secret")] {
            fs::create_dir_all(home.join(".ssh")).expect("mkdir");
            fs::write(home.join(".ssh/id_rsa"), content).expect("write");
            symlink(content, home.join(".ssh/link")).expect("symlink");
            fs::write(home.join(".ssh/more"), content).expect("write");
        }
        let judge = Arc::new(Mallory { top: top.clone(), at, instead: roots });
        let source = [DirectorySource { path: top, judge }];
        match image(&source, &Options::default()) {
            // The directory is still the one that was there.
            Ok((bytes, _)) => {
                let tree = reader::Image::open(&bytes).tree();
                for name in ["a/.ssh/id_rsa", "a/.ssh/link", "a/.ssh/more"] {
                    assert_eq!(tree[name.as_bytes()].data, b"decoy", "{at}: {name}");
                }
            }
            Err(error) => {
                assert!(error.to_string().ends_with("it changed while it was read"), "{at}: {error}");
            }
        }
    }
}

#[test]
fn the_top_may_be_a_link() {
    let dir = tempfile::tempdir().expect("temporary directory");
    fs::create_dir(dir.path().join("real")).expect("mkdir");
    fs::write(dir.path().join("real/file"), "content").expect("write");
    symlink("real", dir.path().join("link")).expect("symlink");
    assert_same(tree_in(&dir.path().join("link")), tree_at(&dir.path().join("real")));
}
