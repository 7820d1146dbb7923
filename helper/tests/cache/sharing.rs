//! Siblings share layers; each comes over the network once.

use std::fs;

use crate::images::*;
use crate::support::{files, Lab, Output};

#[test]
fn four_images_fetch_each_shared_layer_once() {
    let base = layer("base", 1, 900_000);
    let middle = layer("middle", 2, 300_000);
    let tops: Vec<_> = (10..14).map(|n| layer(&format!("top{n}"), n, 50_000)).collect();
    let mut content = Content::default();
    let digests: Vec<String> = (0..4)
        .map(|n| content.add(&format!("{n}"), &[base.clone(), middle.clone(), tops[n].clone()]))
        .collect();
    let server = content.clone().serve();
    let lab = Lab::new();
    for (n, digest) in digests.iter().enumerate() {
        let said = lab.run(["pull", "-q", &format!("{}/app:{n}", server.host())]).ok();
        assert_eq!(said.out.trim(), digest);
    }
    for blob in [&base, &middle].into_iter().chain(&tops) {
        assert_eq!(asked(&server, blob), 1);
    }
    for (n, digest) in digests.iter().enumerate() {
        let want = undisturbed(&content.clone().serve().host(), &n.to_string(), digest);
        assert!(fs::read(squashfs(&lab, digest)).expect("image") == want, "image {n} differs");
    }
    lab.assert_sound();
    // Gone with their images.
    let _ = lab.run(["prune", "--keep", "0"]).ok();
    lab.assert_empty();
}

#[test]
fn a_layer_whose_files_the_other_image_hid_is_fetched_after_all() {
    let base = layer("base", 1, 400_000);
    let mut content = Content::default();
    let child = content.add("child", &[base.clone(), layer("base", 2, 10)]);
    let parent = content.add("parent", std::slice::from_ref(&base));
    let server = content.serve();
    let lab = Lab::new();
    for (tag, digest) in [("child", &child), ("parent", &parent)] {
        let said = lab.run(["pull", "-q", &format!("{}/app:{tag}", server.host())]).ok();
        assert_eq!(said.out.trim(), digest);
    }
    assert_eq!(asked(&server, &base), 2);
    let want = undisturbed(&server.host(), "parent", &parent);
    assert!(fs::read(squashfs(&lab, &parent)).expect("image") == want);
}

#[test]
fn a_damaged_neighbour_costs_a_download_and_nothing_else() {
    let (base, top) = (layer("base", 1, 400_000), layer("top", 2, 100));
    let mut content = Content::default();
    let first = content.add("1", &[base.clone(), layer("other", 3, 100)]);
    let second = content.add("2", &[base.clone(), top]);
    let want = undisturbed(&content.clone().serve().host(), "2", &second);
    for damage in ["image", "index", "cut index", "no index", "cut image"] {
        let server = content.clone().serve();
        let lab = Lab::new();
        let _ = lab.run(["pull", "-q", &format!("{}/app:1", server.host())]).ok();
        let image = squashfs(&lab, &first);
        let index = image.with_extension("layers");
        let flip = |path, at: usize| {
            let mut bytes = fs::read(path).expect("read");
            bytes[at] ^= 1;
            fs::write(path, bytes).expect("write");
        };
        match damage {
            "image" => flip(&image, 200_000),
            "index" => flip(&index, fs::metadata(&index).expect("index").len() as usize - 20),
            "cut index" => fs::write(&index, &fs::read(&index).expect("read")[..150]).expect("write"),
            "no index" => fs::remove_file(&index).expect("remove"),
            _ => fs::write(&image, &fs::read(&image).expect("read")[..200_000]).expect("write"),
        }
        let said = lab.run(["pull", "-q", &format!("{}/app:2", server.host())]).ok();
        assert_eq!(said.out.trim(), second, "{damage}");
        assert!(fs::read(squashfs(&lab, &second)).expect("image") == want, "{damage}");
        assert_eq!(asked(&server, &base), 2, "{damage}");
        assert_eq!(files(&lab.repository().join("tmp")).len(), 0, "{damage}");
        if damage == "image" {
            assert!(!index.exists(), "an index that misled is not asked again");
        }
    }
}

#[test]
fn eight_pulls_of_one_image_fetch_it_once() {
    let layers: Vec<_> = (1..4).map(|n| layer(&format!("l{n}"), n, 300_000)).collect();
    let mut content = Content::default();
    let digest = content.add("1", &layers);
    let server = content.serve();
    let lab = Lab::new();
    let name = format!("{}/app:1", server.host());
    let children: Vec<_> = (0..8).map(|_| lab.spawn(["pull", "-q", &name])).collect();
    for child in children {
        let said = Output::of(child.wait_with_output().expect("grus ends")).ok();
        assert_eq!(said.out.trim(), digest);
    }
    for blob in &layers {
        assert_eq!(asked(&server, blob), 1);
    }
    lab.assert_sound();
    assert_no_orphan(&lab, &digest);
}

#[test]
fn a_pull_whose_registry_fails_goes_on_behind_its_finished_layers() {
    let layers: Vec<_> = (1..4).map(|n| layer(&format!("l{n}"), n, 200_000)).collect();
    let mut content = Content::default();
    let digest = content.add("1", &layers);
    let lab = Lab::new();
    let host = {
        let server = breaking(content.clone(), &layers[0], &lab);
        let said = lab.run(["pull", "-q", &format!("{}/app:1", server.host())]);
        assert_ne!(said.code, Some(0));
        server.host()
    };
    let left = files(&lab.repository().join("tmp"));
    assert_eq!(left.iter().filter(|p| p.to_string_lossy().contains("partial")).count(), 2, "{left:?} {host}");
    assert_eq!(lab.run(["images"]).ok().out.lines().count(), 1, "nothing to see");
    let server = content.clone().serve();
    let said = lab.run(["pull", "-q", &format!("{}/app:1", server.host())]).ok();
    assert_eq!(said.out.trim(), digest);
    assert_eq!(
        [asked(&server, &layers[0]), asked(&server, &layers[2])],
        [1, 0],
        "the top layer was finished"
    );
    assert!(fs::read(squashfs(&lab, &digest)).expect("image") == undisturbed(&server.host(), "1", &digest));
    lab.assert_sound();
    assert_no_orphan(&lab, &digest);
}
