//! The window's bookkeeping, without network: order, bound, ranges that fail, readings that begin again.

use super::*;
use crate::digest::digest_of;

/// The first range; a window begins with an eighth of the longest.
const SEGMENT: u64 = 10;

const CONNECTIONS: usize = 2;

fn content(layer: usize, size: u64) -> Vec<u8> {
    (0..size).map(|n| (n * 7 + layer as u64) as u8).collect()
}

fn window(sizes: &[u64], budget: u64) -> Window {
    let layer = |(n, size): (usize, &u64)| Layer {
        digest: digest_of(&content(n, *size)),
        size: *size,
        media_type: String::new(),
        kind: Blob::Layer,
    };
    let layers: Vec<Layer> = sizes.iter().enumerate().map(layer).collect();
    Window::new(&layers, &[], budget, 8 * SEGMENT, CONNECTIONS)
}

/// All bytes of a claim arrive in pieces of 3, and are hashed as far as they are in order.
fn deliver(window: &mut Window, claim: &Claim, size: u64) {
    let all = content(claim.layer, size);
    let mut at = claim.start;
    while at < claim.end {
        let end = (at + 3).min(claim.end);
        window.arrived(claim, at, Bytes::copy_from_slice(&all[at as usize..end as usize]));
        at = end;
    }
    while let Some(hashing) = window.next_to_hash(claim.layer) {
        window.hashed(hashing.run());
    }
    window.done(claim, Duration::from_secs(2));
}

fn spans(claims: &[Claim]) -> Vec<(usize, u64, u64)> {
    claims.iter().map(|c| (c.layer, c.start, c.end)).collect()
}

fn read(window: &mut Window, layer: usize, pass: u32) -> Vec<u8> {
    let mut out = Vec::new();
    while let Ok(Taken::Bytes(bytes)) = window.take(layer, pass) {
        out.extend_from_slice(&bytes);
    }
    out
}

#[test]
fn ranges_are_claimed_in_the_order_of_reading_once_they_are_known_to_work() {
    let mut window = window(&[5, 25, 8], 1000);
    let first: Vec<Claim> = std::iter::from_fn(|| window.claim()).collect();
    // The top layer whole, one question to the big one, the bottom layer.
    assert_eq!(spans(&first), [(2, 0, 8), (1, 0, 10), (0, 0, 5)]);
    window.ranges_work(&first[1]);
    let then: Vec<Claim> = std::iter::from_fn(|| window.claim()).collect();
    assert_eq!(spans(&then), [(1, 10, 20), (1, 20, 25)]);
}

#[test]
fn memory_is_bounded_but_a_reader_that_has_nothing_gets_its_range() {
    let mut window = window(&[10, 40, 10], 20);
    let claims: Vec<Claim> = std::iter::from_fn(|| window.claim()).collect();
    assert_eq!(spans(&claims), [(2, 0, 10), (1, 0, 10)]);
    assert_eq!(window.held, 20);
    // Somebody reads the bottom layer first: one range beyond the bound, no second one.
    let pass = window.open(0);
    assert_eq!(window.take(0, pass), Ok(Taken::Nothing));
    let extra = window.claim().expect("for the starving reader");
    assert_eq!((extra.layer, window.claim()), (0, None));
    deliver(&mut window, &extra, 10);
    assert_eq!(read(&mut window, 0, pass), content(0, 10));
    assert_eq!(window.take(0, pass), Ok(Taken::End));
    assert_eq!(window.held, 20);
}

#[test]
fn ranges_arriving_out_of_order_are_read_in_order() {
    let mut window = window(&[35], 1000);
    let pass = window.open(0);
    let first = window.claim().expect("first");
    window.ranges_work(&first);
    let rest: Vec<Claim> = std::iter::from_fn(|| window.claim()).collect();
    for claim in rest.iter().rev() {
        deliver(&mut window, claim, 35);
        assert_eq!(window.take(0, pass), Ok(Taken::Nothing));
    }
    deliver(&mut window, &first, 35);
    assert_eq!(read(&mut window, 0, pass), content(0, 35));
    assert_eq!(window.take(0, pass), Ok(Taken::End));
    assert_eq!(window.held, 0);
}

#[test]
fn the_answer_to_the_first_question_is_used_when_it_is_the_whole_layer() {
    let mut window = window(&[35], 12);
    let pass = window.open(0);
    let mut claim = window.claim().expect("first");
    window.ranges_fail(&mut claim);
    assert!(claim.whole && claim.end == 35 && !window.is_void(&claim) && window.claim().is_none());
    assert!(window.may_grow(&claim));
    assert_eq!(window.take(0, pass), Ok(Taken::Nothing));
    window.arrived(&claim, 0, Bytes::copy_from_slice(&content(0, 35)[..12]));
    let hashing = window.next_to_hash(0).expect("in order");
    window.hashed(hashing.run());
    assert!(!window.may_grow(&claim), "beyond the bound");
    let mut got = read(&mut window, 0, pass);
    assert!(window.may_grow(&claim), "a reader waits");
    deliver(&mut window, &Claim { start: 12, ..claim }, 35);
    got.extend(read(&mut window, 0, pass));
    assert_eq!(got, content(0, 35));
    assert_eq!((window.take(0, pass), window.held), (Ok(Taken::End), 0));
}

#[test]
fn ranges_that_fail_later_make_the_layer_begin_anew_where_it_was_hashed() {
    let mut window = window(&[35], 1000);
    let pass = window.open(0);
    let first = window.claim().expect("first");
    window.ranges_work(&first);
    let mut second = window.claim().expect("second");
    let third = window.claim().expect("third");
    deliver(&mut window, &first, 35);
    let ahead = Bytes::copy_from_slice(&content(0, 35)[20..25]);
    assert_eq!(window.arrived(&third, 20, ahead), Some(5), "what comes out of order counts");
    window.ranges_fail(&mut second);
    assert!(window.is_void(&second) && window.is_void(&third));
    assert_eq!(window.arrived(&third, 25, Bytes::from_static(b"x")), None, "in vain");
    let whole = window.claim().expect("the whole");
    assert_eq!((whole.start, whole.end, whole.whole, window.claim()), (10, 35, true, None));
    deliver(&mut window, &whole, 35);
    assert_eq!(read(&mut window, 0, pass), content(0, 35));
    assert_eq!((window.take(0, pass), window.held), (Ok(Taken::End), 0));
}

#[test]
fn where_all_connections_wait_for_room_one_makes_way_for_a_reader_that_has_nothing() {
    let mut window = window(&[8, 35, 35], 20);
    let pass = window.open(0);
    let mut claims = [window.claim().expect("top"), window.claim().expect("middle")];
    for claim in &mut claims {
        window.ranges_fail(claim);
        let beginning = Claim { end: 10, ..claim.clone() };
        let bytes = Bytes::copy_from_slice(&content(claim.layer, 35)[..10]);
        window.arrived(&beginning, 0, bytes);
        let hashing = window.next_to_hash(claim.layer).expect("in order");
        window.hashed(hashing.run());
    }
    let [top, middle] = claims;
    window.make_way(&middle);
    assert!(!window.is_void(&middle) && !window.may_grow(&middle), "no reader waits");
    assert_eq!(window.take(0, pass), Ok(Taken::Nothing));
    window.make_way(&middle);
    window.make_way(&top);
    assert!(window.is_void(&middle) && !window.is_void(&top), "one connection is enough");
    let bottom = window.claim().expect("for the starving reader");
    window.make_way(&top);
    assert_eq!((bottom.layer, window.is_void(&top)), (0, false));
    deliver(&mut window, &bottom, 8);
    assert_eq!(read(&mut window, 0, pass), content(0, 8));
    // The others go on where they were.
    let passes = [window.open(1), window.open(2)];
    deliver(&mut window, &Claim { start: 10, ..top }, 35);
    assert_eq!(read(&mut window, 2, passes[1]), content(2, 35));
    let rest = window.claim().expect("the rest");
    assert_eq!((rest.layer, rest.start, rest.end, rest.whole), (1, 10, 35, true));
    deliver(&mut window, &rest, 35);
    assert_eq!(read(&mut window, 1, passes[0]), content(1, 35));
    assert_eq!((window.take(1, passes[0]), window.held), (Ok(Taken::End), 0));
}

#[test]
fn a_layer_can_be_read_again_and_is_judged_again() {
    let mut window = window(&[8], 1000);
    for gained in [8, 0] {
        let pass = window.open(0);
        let claim = window.claim().expect("a pass fetches");
        assert_eq!(window.arrived(&claim, 0, Bytes::from(content(0, 8))), Some(gained));
        let hashing = window.next_to_hash(0).expect("in order");
        assert!(window.hashed(hashing.run()));
        assert_eq!(read(&mut window, 0, pass), content(0, 8));
        assert_eq!(window.take(0, pass), Ok(Taken::End));
        window.close(0, pass);
    }
    assert_eq!(window.held, 0);
}

#[test]
fn a_reading_given_up_frees_its_memory_and_the_hash_under_way_is_forgotten() {
    let mut window = window(&[8], 1000);
    let pass = window.open(0);
    let claim = window.claim().expect("first");
    window.arrived(&claim, 0, Bytes::from(content(0, 8)));
    let hashing = window.next_to_hash(0).expect("in order");
    window.close(0, pass);
    assert_eq!((window.held, window.claim()), (0, None));
    assert!(!window.hashed(hashing.run()));
    assert!(window.take(0, pass).is_err());
}

#[test]
fn wrong_bytes_fail_everything() {
    let mut window = window(&[8, 8], 1000);
    let pass = window.open(0);
    let claim = window.claim().expect("top");
    window.arrived(&claim, 0, Bytes::from(vec![0; 8]));
    let hashing = window.next_to_hash(1).expect("in order");
    assert!(!window.hashed(hashing.run()));
    assert_eq!(window.take(0, pass).expect_err("failed").kind, Kind::Corrupt);
    assert_eq!(window.claim(), None);
}

#[test]
fn an_empty_layer_is_complete_from_the_start() {
    let mut window = window(&[0], 1000);
    let pass = window.open(0);
    assert_eq!((window.take(0, pass), window.claim()), (Ok(Taken::End), None));
}

#[test]
fn a_layer_whose_beginning_is_held_is_fetched_from_there() {
    let layer = |size| Layer {
        digest: digest_of(b"judged by the reader"),
        size,
        media_type: String::new(),
        kind: Blob::Layer,
    };
    let mut window = Window::new(&[layer(25), layer(8)], &[12, 8], 1000, 8 * SEGMENT, CONNECTIONS);
    let (below, top) = (window.open(0), window.open(1));
    assert_eq!(window.take(1, top), Ok(Taken::End));
    let claim = window.claim().expect("the rest");
    assert_eq!((claim.layer, claim.start, claim.end), (0, 12, 22));
    window.ranges_work(&claim);
    deliver(&mut window, &claim, 25);
    let rest = window.claim().expect("the last");
    deliver(&mut window, &rest, 25);
    assert_eq!(read(&mut window, 0, below), content(0, 25)[12..]);
    assert_eq!(window.take(0, below), Ok(Taken::End));
}
