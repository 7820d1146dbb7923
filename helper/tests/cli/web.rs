//! `grus import` from a web server: right bytes or a clear error, whatever the server does.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::archives::*;
use crate::server::{Answer, How, Request, Server};
use crate::support::{files, Lab};

/// A root file system of about `size` bytes that do not compress.
fn rootfs(size: u32) -> Vec<u8> {
    let noise: Vec<u8> = (0..size / 4).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    tar_of(&[("etc/", b""), ("etc/os-release", b"ID=crane"), ("etc/noise", &noise)])
}

/// What an object store answers: ranges, and an ETag.
fn store(file: &[u8], request: &Request) -> Answer {
    let tag = format!("\"{}\"", &digest(file)[7..20]);
    let answer = Answer::ok(file.to_vec()).header("ETag", &tag);
    let Some(range) = request.header("range").and_then(|r| r.strip_prefix("bytes=")) else { return answer };
    let (from, to) = range.split_once('-').expect("a range");
    let (from, to): (usize, usize) = (from.parse().expect("from"), to.parse().expect("to"));
    let to = to.min(file.len() - 1);
    let header = format!("bytes {from}-{to}/{}", file.len());
    Answer { status: 206, ..answer.header("Content-Range", &header).body(file[from..=to].to_vec()) }
}

/// A server of `file` whose answers pass through `fault`, with their number: 0 is the first question.
fn serve(
    file: &[u8],
    fault: impl Fn(usize, &Request, Answer) -> Answer + Send + Sync + 'static,
) -> (Server, String) {
    let (file, count) = (file.to_vec(), AtomicUsize::new(0));
    let server = Server::start(move |request| {
        let answer = store(&file, request);
        fault(count.fetch_add(1, Ordering::SeqCst), request, answer)
    });
    let url = format!("http://{}/bucket/app?X-Signature=secret", server.host());
    (server, url)
}

fn squashfs(lab: &Lab) -> Vec<u8> {
    fs::write(lab.path("rootfs.tar"), rootfs(300_000)).expect("write");
    let made = lab.run(["--repository", "other", "import", "--json", "rootfs.tar", "made"]).ok().out;
    let made: Value = serde_json::from_str(&made).expect("JSON");
    fs::read(made["path"].as_str().expect("path")).expect("an image")
}

/// One file of each kind.
fn kinds(lab: &Lab) -> Vec<(&'static str, Vec<u8>)> {
    let tar = rootfs(300_000);
    let docker = tar_members(&docker_archive(&[(&["app:1"], std::slice::from_ref(&tar))]));
    vec![
        ("zst", zstd::encode_all(&tar[..], 1).expect("zstd")),
        ("gz", gzip(&tar)),
        ("docker", docker.clone()),
        ("docker.gz", gzip(&docker)),
        ("squashfs", squashfs(lab)),
        ("tar", tar),
    ]
}

#[test]
fn a_file_is_fetched_once_and_only_with_the_stated_digest() {
    let lab = Lab::new();
    for (kind, file) in kinds(&lab) {
        let stated = digest(&file);
        let (server, url) = serve(&file, |_, _, answer| answer);
        let wrong = digest(b"another");
        let said = lab.run(["import", "-q", "--digest", &wrong, &url, kind]);
        let said = said.refused(65, "is damaged");
        assert!(said.contains(&stated) && said.contains(&wrong) && !said.contains("secret"), "{said}");
        assert_eq!(lab.run(["images", "-q"]).ok().out, "", "{kind}");
        assert_eq!(files(&lab.repository()), Vec::<std::path::PathBuf>::new(), "{kind}");

        let import = |name: &str| lab.run(["import", "--json", "--digest", &stated, &url, name]).ok();
        let made: Value = serde_json::from_str(&import(kind).out).expect("JSON");
        assert_eq!(made["status"], "imported");
        fs::write(lab.path("file"), &file).expect("write");
        let local = lab.run(["--repository", "local", "import", "-q", "file", kind]).ok();
        assert_eq!(made["digest"], local.out.trim(), "{kind}: the same image from a file");
        let before = server.log().len();
        let again: Value = serde_json::from_str(&import(kind).out).expect("JSON");
        assert_eq!((&again["status"], server.log().len()), (&"up-to-date".into(), before), "{kind}");
        if ["squashfs", "tar"].contains(&kind) {
            let again: Value = serde_json::from_str(&import("other-name").out).expect("JSON");
            assert_eq!((&again["status"], server.log().len()), (&"tagged".into(), before), "{kind}");
        }
        lab.assert_sound();
        let _ = lab.run(["prune", "--keep", "0"]).ok();
    }
}

#[test]
fn a_stated_digest_holds_for_files_and_pipes_too() {
    let lab = Lab::new();
    for (kind, file) in kinds(&lab) {
        fs::write(lab.path("file"), &file).expect("write");
        let (right, wrong) = (digest(&file), digest(b"another"));
        let said = lab.run(["import", "-q", "--digest", &wrong, "file", kind]).refused(65, "damaged");
        assert!(said.contains(&right), "{said}");
        lab.pipe(["import", "-q", "--digest", &wrong, "-", kind], &file).refused(65, "damaged");
        lab.assert_empty();
        // As sha256sum shows it.
        let _ = lab.run(["import", "--digest", &right[7..], "file", kind]).ok();
        let _ = lab.pipe(["import", "--digest", &right, "-", kind], &file).ok();
        let _ = lab.run(["prune", "--keep", "0"]).ok();
    }
    fs::create_dir_all(lab.path("tree/etc")).expect("mkdir");
    lab.run(["import", "--digest", &digest(b""), "tree", "x"]).refused(2, "which has no digest");
    lab.run(["import", "--digest", "sha256:12", "file", "x"]).refused(2, "is not a digest");
}

#[test]
fn a_broken_connection_is_taken_up_where_it_broke() {
    let lab = Lab::new();
    // Small enough for one range.
    let file = rootfs(900_000);
    for cut in [1, 70_000, 500_000, file.len() - 1] {
        let (server, url) = serve(&file, move |n, _, answer| match n {
            1 => answer.how(How::Cut(cut)),
            _ => answer,
        });
        let said = lab.run(["import", &url, "app"]).ok();
        assert!(said.err.contains("trying again") && !said.err.contains("secret"), "{said:?}");
        let stated = format!("--digest {}", digest(&file));
        assert!(said.err.contains(&stated), "an unchecked file is said to be one: {said:?}");
        let ranges: Vec<_> = server.log().iter().map(|r| r.header("range").map(str::to_owned)).collect();
        let rest = ranges[2].clone().expect("a range");
        let from: usize =
            rest.trim_start_matches("bytes=").split('-').next().expect("from").parse().expect("n");
        assert!(from > 0 && from <= cut, "{ranges:?}");
        let _ = lab.run(["prune", "--keep", "0"]).ok();
    }
}

#[test]
fn a_server_without_ranges_or_in_trouble_is_coped_with() {
    let lab = Lab::new();
    let file = rootfs(1_000_000);
    let whole = file.clone();
    let cope = |fault: Box<dyn Fn(usize, Answer) -> Answer + Send + Sync>| {
        let (_server, url) = serve(&file, move |n, _, answer| fault(n, answer));
        let said = lab.run(["import", "-q", &url, "app"]).ok();
        let _ = lab.run(["prune", "--keep", "0"]).ok();
        said.out
    };
    let right = cope(Box::new(|_, answer| answer));
    let tag = format!("\"{}\"", &digest(&file)[7..20]);
    let no_ranges = move |n, _| {
        let answer = Answer::ok(whole.clone()).header("ETag", &tag);
        if n == 1 {
            answer.how(How::Cut(500_000))
        } else {
            answer
        }
    };
    assert_eq!(cope(Box::new(no_ranges)), right);
    for status in [500, 503, 429, 408] {
        let trouble = move |n: usize, answer| match n % 2 {
            0 => Answer::status(status).header("Retry-After", "0"),
            _ => answer,
        };
        assert_eq!(cope(Box::new(trouble)), right, "{status}");
    }
}

#[test]
fn what_cannot_be_had_is_told() {
    let lab = Lab::new();
    let file = rootfs(1_000_000);
    let told = |code, words: &str, fault: Box<dyn Fn(usize, Answer) -> Answer + Send + Sync>| {
        let (_server, url) = serve(&file, move |n, _, answer| fault(n, answer));
        let said = lab.run(["import", "-q", &url, "app"]).refused(code, words);
        assert!(!said.contains("secret"), "{said}");
        lab.assert_empty();
    };
    told(66, "has no http://127.0.0.1", Box::new(|_, _| Answer::status(404)));
    told(77, "403 Forbidden for http://127.0.0.1", Box::new(|_, _| Answer::status(403)));
    told(
        77,
        "403 Forbidden for http://127.0.0.1",
        Box::new(|n, a| if n > 0 { Answer::status(403) } else { a }),
    );
    told(65, "is empty", Box::new(|_, _| Answer::status(416).header("Content-Range", "bytes */0")));
    told(65, "does not say how large", Box::new(|_, _| Answer::ok(vec![1]).how(How::Chunked)));
    let bare = |_, mut answer: Answer| {
        answer.headers.retain(|(name, _)| name != "ETag");
        answer
    };
    told(65, "does not tell one version of", Box::new(bare));
    told(65, "was replaced while it was fetched", Box::new(|n, a| a.header("ETag", &format!("\"{n}\""))));
    told(
        65,
        "the file has 1003520 bytes, ",
        Box::new(|n, a| {
            let short = Answer::ok(vec![0; 9]).header("ETag", &a.headers[0].1);
            if n > 0 {
                short
            } else {
                a
            }
        }),
    );
    let web = "redirects to plain HTTP, http://store.example/x";
    told(65, web, Box::new(|_, _| Answer::status(302).header("Location", "http://store.example/x?secret")));
    for (url, code, words) in [
        ("http://store.example/app", 65, "http://store.example/app is plain HTTP"),
        ("ftp://store.example/app", 2, "ftp:// is no kind of address"),
        ("https://me:secret@store.example/app", 2, "has a name or a password in it"),
    ] {
        let said = lab.run(["import", "-q", url, "app"]).refused(code, words);
        assert!(!said.contains("secret"), "{said}");
    }
}

#[test]
fn no_account_goes_to_a_web_server_nor_where_it_redirects_to() {
    let lab = Lab::new();
    let file = rootfs(100_000);
    let (target, to) = serve(&file, |_, _, answer| answer);
    let (first, url) = serve(&file, move |_, _, _| Answer::status(307).header("Location", &to));
    let auth = |host: String| format!("\"{host}\": {{\"auth\": \"YWxpY2U6c2VjcmV0\"}}");
    let auths = format!("{{\"auths\": {{{}, {}}}}}", auth(first.host()), auth(target.host()));
    fs::create_dir_all(lab.path(".docker")).expect("mkdir");
    fs::write(lab.path(".docker/config.json"), auths).expect("config.json");
    let _ = lab.run(["import", "--digest", &digest(&file), &url, "app"]).ok();
    for request in first.log().iter().chain(&target.log()) {
        assert_eq!((request.header("authorization"), request.header("cookie")), (None, None));
    }
    assert!(target.log().len() >= 2);
}

#[test]
fn a_slow_import_that_is_killed_goes_on_with_what_it_had() {
    let lab = Lab::new();
    let file = rootfs(4_000_000);
    let stated = digest(&file);
    // Slow enough to be worth keeping: 6 % in two seconds and a half, then nothing.
    let (server, url) = serve(&file, |n, _, answer| {
        if n == 1 {
            std::thread::sleep(Duration::from_millis(2500));
            return answer.how(How::Stall(240_000));
        }
        answer
    });
    let mut child = lab.spawn(["import", "--digest", &stated, &url, "app"]);
    let kept = lab.repository().join("layers/sha256").join(&stated[7..]);
    let start = Instant::now();
    while !fs::metadata(&kept).is_ok_and(|m| m.len() > 100_000) {
        assert!(start.elapsed() < Duration::from_secs(30), "nothing is kept");
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().expect("kill");
    let _ = child.wait();
    let had = fs::metadata(&kept).expect("kept").len();
    let before = server.log().len();
    let _ = lab.run(["import", "--digest", &stated, &url, "app"]).ok();
    let ranges: Vec<_> =
        server.log()[before..].iter().filter_map(|r| r.header("range").map(str::to_owned)).collect();
    assert!(ranges.iter().any(|range| range.starts_with(&format!("bytes={had}-"))), "{had}: {ranges:?}");
    // The question for the size asks for the first byte; requests of the killed program may still be logged before it.
    let again = |range: &String| range.starts_with("bytes=0-") && range != "bytes=0-0";
    assert!(!ranges.iter().any(again), "{ranges:?}");
    assert!(!kept.exists(), "it has served");
    lab.assert_sound();
    // Kept bytes that are wrong cost a download and nothing else.
    let _ = lab.run(["rmi", "app"]).ok();
    fs::write(&kept, vec![7; 90_000]).expect("write");
    let _ = lab.run(["import", "--digest", &stated, &url, "app"]).ok();
    lab.assert_sound();
}

#[test]
fn concurrent_imports_of_one_file_fetch_it_once() {
    let lab = Lab::new();
    let file = rootfs(800_000);
    let (server, url) = serve(&file, |_, _, answer| answer);
    let stated = digest(&file);
    let children: Vec<_> =
        (0..4).map(|n| lab.spawn(["import", "-q", "--digest", &stated, &url, &format!("app:{n}")])).collect();
    for child in children {
        let said = crate::support::Output::of(child.wait_with_output().expect("grus ends")).ok();
        assert!(said.out.starts_with("sha256:"), "{said:?}");
    }
    assert_eq!(server.log().len(), 2, "one question, one download");
    lab.assert_sound();
}

#[test]
fn a_file_larger_than_a_range_comes_over_several_connections() {
    let lab = Lab::new();
    let file = rootfs(20_000_000);
    let parallel = Arc::new(AtomicUsize::new(0));
    let count = parallel.clone();
    let (_server, url) = serve(&file, move |_, request, answer| {
        if request.header("range").is_some() {
            count.fetch_add(1, Ordering::SeqCst);
        }
        answer
    });
    let made = lab.run(["import", "-q", &url, "app"]).ok().out;
    assert!(parallel.load(Ordering::SeqCst) >= 4, "the question and three ranges");
    fs::write(lab.path("file"), &file).expect("write");
    assert_eq!(lab.run(["--repository", "local", "import", "-q", "file", "app"]).ok().out, made);
}
