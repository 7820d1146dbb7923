//! The fault table of a download: whatever the network does, the right bytes or a clear error.

use std::collections::BTreeSet;
use std::io::Read;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{mpsc, Arc, Mutex};
use std::time::{Duration, Instant};

use grus_core::reference::Reference;
use grus_helper::registry::{Client, Held, Kind, RegistryError};

use super::image::{noise, Content};
use super::server::{Answer, How, Request, Server};
use super::{amd64, pull, settings, Watch};

const SIZES: [usize; 3] = [300_000, 700_000, 20_000];

/// A server of an image, each of whose answers for blobs passes through `fault` with its number.
fn faulty(fault: impl Fn(usize, &Request, Answer) -> Answer + Send + Sync + 'static) -> (Server, Content) {
    let content = Content::image(&SIZES);
    let (mine, count) = (content.clone(), AtomicUsize::new(0));
    let layers: Vec<String> = (0..SIZES.len()).map(|n| content.layer_digest(n)).collect();
    let server = Server::start(move |request| {
        let answer = mine.answer(request);
        match layers.iter().any(|l| request.is_blob(l)) {
            true => fault(count.fetch_add(1, Ordering::SeqCst), request, answer),
            false => answer,
        }
    });
    (server, content)
}

/// The download gives the right bytes in spite of `fault`.
#[track_caller]
fn survives(
    fault: impl Fn(usize, &Request, Answer) -> Answer + Send + Sync + 'static,
) -> (Server, Arc<Watch>) {
    let (server, content) = faulty(fault);
    let (layers, watch) = pull(settings(), &server.image()).expect("survives");
    assert!(layers == content.layers, "wrong bytes");
    (server, watch)
}

/// The download ends in an error of `kind` that says `words`.
#[track_caller]
fn fails(
    kind: Kind,
    words: &str,
    fault: impl Fn(usize, &Request, Answer) -> Answer + Send + Sync + 'static,
) -> RegistryError {
    let (server, _) = faulty(fault);
    let error = pull(settings(), &server.image()).map(drop).expect_err("cannot go well");
    assert!(error.kind == kind && error.what.contains(words), "{error:?}");
    error
}

#[test]
fn nothing_wrong() {
    let (server, watch) = survives(|_, _, answer| answer);
    assert_eq!(watch.restarts.load(Ordering::Relaxed), 0);
    let ranged = server.log().iter().filter(|r| r.header("range").is_some()).count();
    assert!(ranged >= 700_000 / (64 << 10), "large layers come in ranges: {ranged}");
}

#[test]
fn cut_at_random_points() {
    // Every second answer breaks off somewhere.
    let (server, watch) = survives(|n, _, answer| {
        let at = noise(n as u64, 4).iter().fold(0, |a, b| a << 8 | *b as usize) % (answer.body.len() + 1);
        if n % 2 == 0 {
            answer.how(How::Cut(at))
        } else {
            answer
        }
    });
    assert!(watch.restarts.load(Ordering::Relaxed) > 3);
    // What had arrived is not asked for again.
    let resumed = |r: &Request| r.header("range").is_some_and(|h| !h.contains("bytes=0-"));
    assert!(server.log().iter().any(resumed));
}

#[test]
fn closed_before_the_answer() {
    survives(|n, _, answer| if n % 3 == 0 { answer.how(How::Closed) } else { answer });
}

#[test]
fn server_errors_pass() {
    for status in [500, 502, 503, 504, 408] {
        survives(move |n, _, answer| if n % 3 == 0 { Answer::status(status) } else { answer });
    }
}

#[test]
fn server_errors_without_end_are_reported() {
    let error = fails(Kind::Unavailable, "503", |_, _, _| Answer::status(503));
    assert!(error.hint.is_some());
}

#[test]
fn too_many_requests_are_taken_back_as_asked() {
    for after in ["0", "Sun, 06 Nov 1994 08:49:37 GMT", "nonsense"] {
        survives(
            move |n, _, answer| {
                if n % 4 == 0 {
                    Answer::status(429).header("Retry-After", after)
                } else {
                    answer
                }
            },
        );
    }
    fails(Kind::Unavailable, "limits the rate", |_, _, _| Answer::status(429).header("Retry-After", "0"));
}

#[test]
fn stalls_are_noticed() {
    survives(|n, _, answer| if n % 5 == 1 { answer.how(How::Stall(1000)) } else { answer });
    survives(|n, _, answer| if n == 0 { answer.how(How::Silent) } else { answer });
    fails(Kind::Unavailable, "sent nothing", |_, _, answer| answer.how(How::Stall(0)));
}

#[test]
fn truncated_bodies_are_completed() {
    // The server believes that it sent all.
    survives(|n, _, answer| match n % 2 {
        0 => {
            let half = answer.body[..answer.body.len() / 2].to_vec();
            answer.body(half).how(How::Chunked)
        }
        _ => answer,
    });
    fails(Kind::Corrupt, "ended at byte", |_, _, answer| answer.body(vec![]).how(How::Chunked));
}

#[test]
fn corrupted_bytes_are_found() {
    let error = fails(Kind::Corrupt, "is damaged", |n, _, mut answer| {
        if n == 1 {
            let middle = answer.body.len() / 2;
            answer.body[middle] ^= 1;
        }
        answer
    });
    assert!(error.way_out().is_some_and(|hint| hint.contains("wrong bytes")));
}

#[test]
fn a_whole_other_layer_is_found() {
    fails(Kind::Corrupt, "", |_, _, answer| Answer::ok(noise(99, 4000)).how(answer.how));
}

#[test]
fn wrong_lengths_are_found() {
    // Announced longer than it is: it breaks off each time.
    fails(Kind::Corrupt, "announces 5", |_, _, _| Answer::ok(vec![0; 5]));
    // Sent longer than announced by the manifest: of the range, and where the server knows no ranges.
    fails(Kind::Corrupt, "sends more", |_, _, mut answer| {
        answer.body.push(0);
        answer.how(How::Chunked)
    });
    let blobs = Content::image(&SIZES).blobs;
    fails(Kind::Corrupt, "sends more", move |_, request, _| {
        let name = request.path.rsplit('/').next().unwrap_or("");
        Answer::ok([&blobs[name][..], &[0]].concat()).how(How::Chunked)
    });
}

#[test]
fn an_endless_body_is_left() {
    fails(Kind::Corrupt, "", |_, _, answer| Answer { status: 200, ..answer }.how(How::Endless));
}

#[test]
fn an_ignored_range_is_taken_as_the_whole() {
    let content = Content::image(&SIZES);
    let blobs = content.blobs.clone();
    let whole = move |request: &Request| {
        let name = request.path.rsplit('/').next().unwrap_or("").to_owned();
        Answer::ok(blobs[&name].clone())
    };
    let all = whole.clone();
    survives(move |_, request, _| all(request));
    // And it breaks off now and then: the beginning is passed over.
    let broken = whole.clone();
    survives(move |n, request, _| {
        let answer = broken(request);
        let at = answer.body.len() * (1 + n % 3) / 3;
        if n < 6 {
            answer.how(How::Cut(at))
        } else {
            answer
        }
    });
    // Honoured at first, ignored later, as behind a load balancer of two kinds of servers.
    survives(move |n, request, answer| if n > 3 && n % 2 == 0 { whole(request) } else { answer });
}

#[test]
fn a_wrong_content_range_is_not_believed() {
    for wrong in ["bytes 1-2/3", "bytes 0-65535/1", "nonsense", "bytes 65537-131072/700000"] {
        survives(move |_, request, answer| match request.header("range") {
            Some(_) => answer.header("Content-Range", wrong),
            None => answer,
        });
    }
    // Right at first.
    survives(|n, request, answer| match request.header("range") {
        Some(_) if n > 4 => answer.header("Content-Range", "bytes 5-9/700000"),
        _ => answer,
    });
}

#[test]
fn a_range_refused_is_asked_for_as_a_whole() {
    survives(
        |_, request, answer| if request.header("range").is_some() { Answer::status(416) } else { answer },
    );
    survives(
        |n, request, answer| {
            if n > 4 && request.header("range").is_some() {
                Answer::status(416)
            } else {
                answer
            }
        },
    );
}

#[test]
fn a_missing_layer_is_named() {
    let content = Content::image(&SIZES);
    let gone = content.layer_digest(1);
    let words = gone.clone();
    fails(
        Kind::NotFound,
        &words,
        move |_, r, answer| if r.is_blob(&gone) { Answer::status(404) } else { answer },
    );
}

#[test]
fn a_status_nobody_knows_is_an_error() {
    fails(Kind::Refused, "418", |_, _, _| Answer::status(418));
    fails(Kind::Corrupt, "204", |_, _, _| Answer::status(204));
    fails(Kind::Refused, "", |_, _, _| Answer::status(304));
}

/// Bytes of a test as a layer's beginning.
struct Bytes(Vec<u8>);

impl grus_squash::LayerSource for Bytes {
    fn open(&self) -> std::io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(std::io::Cursor::new(self.0.clone())))
    }
    fn name(&self) -> String {
        "held".into()
    }
}

#[test]
fn what_is_held_is_not_fetched_but_judged() {
    for (right, ranges) in [(true, true), (true, false), (false, true)] {
        let blobs = Content::image(&SIZES).blobs;
        let (server, content) = faulty(move |_, request, answer| match ranges {
            true => answer,
            false => Answer::ok(blobs[request.path.rsplit('/').next().unwrap_or("")].clone()),
        });
        let client = Client::new(settings()).expect("client");
        let reference = Reference::parse(&server.image()).expect("static");
        let resolved = client.resolve(&reference, &amd64()).expect("there");
        let held = |layer: usize, len: usize| {
            let mut bytes = content.layers[layer][..len].to_vec();
            bytes[0] ^= u8::from(!right);
            Some(Held { len: len as u64, source: Arc::new(Bytes(bytes)) })
        };
        let all = vec![held(0, SIZES[0]), held(1, 123_456), None];
        let sources = client.download_rest(&resolved, all, Arc::new(Watch::default())).expect("started");
        for (n, source) in sources.iter().enumerate().rev() {
            let mut bytes = Vec::new();
            let read = source.open().expect("opens").read_to_end(&mut bytes);
            assert_eq!(read.is_ok(), right || n == 2, "layer {n}: {read:?}");
            assert!(!right || bytes == content.layers[n]);
        }
        assert!(!server.log().iter().any(|r| r.is_blob(&content.layer_digest(0))), "it was held");
    }
}

/// Waits until `ready`, but not for ever.
fn wait(ready: impl Fn() -> bool) {
    let start = Instant::now();
    while !ready() && start.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn without_ranges_a_layer_can_be_read_again_while_all_connections_wait_for_room() {
    // The upper layer, and below it one for each connection, of which none fits into memory.
    let content = Content::image(&[600_000, 600_000, 600_000, 600_000, 50_000]);
    let mine = content.clone();
    let layers: Vec<String> = (0..5).map(|n| content.layer_digest(n)).collect();
    let asked = Arc::new(Mutex::new(BTreeSet::new()));
    let (notes, all) = (asked.clone(), move || asked.lock().expect("unpoisoned").len() == 5);
    let all_asked = all.clone();
    let server = Server::start(move |request| {
        let Some(n) = layers.iter().position(|l| request.is_blob(l)) else { return mine.answer(request) };
        notes.lock().expect("unpoisoned").insert(n);
        // Not a byte of the lower ones before each has its connection: there would be no room for the last.
        wait(|| n == 4 || all_asked());
        Answer::ok(mine.layers[n].clone())
    });
    let client = Client::new(settings()).expect("client");
    let reference = Reference::parse(&server.image()).expect("static");
    let resolved = client.resolve(&reference, &amd64()).expect("there");
    let sources = client.download(&resolved, Arc::new(Watch::default())).expect("started");
    let (done, finished) = mpsc::channel();
    let read = move |n: usize| {
        let (source, done) = (sources[n].clone(), done.clone());
        // A thread: a hang must not hold the test.
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let read = source.open().and_then(|mut reader| reader.read_to_end(&mut bytes));
            let _ = done.send(read.map(|_| bytes));
        });
        let bytes = finished.recv_timeout(Duration::from_secs(30)).expect("a hang").expect("right");
        assert!(bytes == content.layers[n], "layer {n}");
    };
    read(4);
    wait(all);
    // As after a layer of an earlier image that turned out to be damaged; and then in the worst order.
    read(4);
    (0..4).for_each(read);
}
