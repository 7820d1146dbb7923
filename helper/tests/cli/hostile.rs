//! Archives made to deceive: each is refused in a sentence, and nothing of it is left.

use std::fs;
use std::os::unix::fs::symlink;

use serde_json::{json, Value};

use crate::archives::*;
use crate::support::Lab;

/// Changes the one docker-archive of `lab` and imports it.
fn changed(
    lab: &Lab,
    change: impl FnOnce(&mut Vec<(String, Vec<u8>)>, &mut Value),
) -> crate::support::Output {
    let mut members = docker_archive(&[(&["app:1"], &[base_layer()])]);
    let mut manifest: Value = serde_json::from_slice(&members.pop().expect("manifest").1).expect("JSON");
    change(&mut members, &mut manifest);
    members.push(("manifest.json".into(), manifest.to_string().into_bytes()));
    lab.pipe(["import", "-q", "-", "app"], &tar_members(&members))
}

#[test]
fn names_that_leave_the_archive_lead_nowhere() {
    for name in ["../../../../etc/passwd", "/etc/passwd", "..", ""] {
        let lab = Lab::new();
        changed(&lab, |_, m| m[0]["Layers"][0] = json!(name)).refused(65, "lacks");
        changed(&lab, |_, m| m[0]["Config"] = json!(name)).refused(65, "lacks");
        // The member itself may bear such a name: it is not a member then.
        changed(&lab, |members, m| {
            members.reverse();
            members[1].0 = name.to_owned();
            m[0]["Layers"][0] = json!(name);
        })
        .refused(65, "lacks");
        lab.assert_empty();
    }
}

#[test]
fn links_that_leave_the_archive_lead_nowhere() {
    let lab = Lab::new();
    for target in ["->/etc/passwd", "->../../../../../etc/passwd", "->layer.tar"] {
        changed(&lab, |members, _| members[0].1 = target.as_bytes().to_vec()).refused(65, "lacks");
    }
    let (dir, _) = simple_layout(lab.path("layout"));
    let blob = crate::support::files(&dir.join("blobs"))
        .into_iter()
        .max_by_key(|p| fs::read(p).expect("blob").starts_with(&[0x1f, 0x8b]))
        .expect("the layer");
    fs::rename(&blob, lab.path("outside")).expect("rename");
    symlink(lab.path("outside"), &blob).expect("link");
    lab.run(["import", "-q", "layout", "app"]).refused(65, "lacks the blob");
    symlink("/dev/zero", dir.join("zero")).expect("link");
    fs::remove_file(dir.join("index.json")).expect("remove");
    symlink("/dev/zero", dir.join("index.json")).expect("link");
    let said = lab.run(["import", "-q", "layout", "app"]);
    assert_eq!(said.code, Some(65), "{said:?}");
    lab.assert_empty();
}

#[test]
fn gigantic_documents_are_not_read() {
    let lab = Lab::new();
    let huge = vec![b' '; (4 << 20) + 1];
    let tar = tar_of(&[("manifest.json", &huge)]);
    lab.pipe(["import", "-q", "-", "app"], &tar).refused(65, "larger than 4194304 bytes");
    // A directory may even claim terabytes without having them.
    let (dir, _) = simple_layout(lab.path("layout"));
    let index = fs::File::create(dir.join("index.json")).expect("create");
    index.set_len(1 << 40).expect("a sparse file");
    lab.run(["import", "-q", "layout", "app"]).refused(65, "larger than 4194304 bytes");
    lab.assert_empty();
}

#[test]
fn nonsense_in_documents_is_told_without_control_characters() {
    let lab = Lab::new();
    for text in
        ["", "{}", "[", "null", "[{}]", "[{\"Config\": 7}]", "\"\x1b[31m\"", "[{\"Config\":\"\\u001b[31m\"}]"]
    {
        let tar = tar_of(&[("manifest.json", text.as_bytes())]);
        let said = lab.pipe(["import", "-q", "-", "app"], &tar);
        said.refused(65, "");
    }
    changed(&lab, |_, m| m[0]["Layers"] = json!([])).refused(65, "has 0 layers");
    changed(&lab, |members, m| {
        let name = format!("\x1b[31m{}", members[0].0);
        m[0]["Layers"][0] = json!(name);
    })
    .refused(65, "\\x1b[31m");
    lab.assert_empty();
}

#[test]
fn a_layer_that_is_not_what_its_digest_says_is_refused_at_its_end() {
    let lab = Lab::new();
    let other = tar_of(&[("etc/", b""), ("etc/evil", b"x")]);
    changed(&lab, |members, _| members[0].1 = other.clone())
        .refused(65, "is damaged: its content is sha256:");
    lab.assert_empty();

    let mut layout = Layout::new(lab.path("layout"));
    let image = layout.image(&[base_layer()], arch());
    let packed = gzip(&base_layer());
    layout.add(image.clone(), None, None);
    layout.finish();
    let mut bad = packed.clone();
    let last = bad.len() - 1;
    bad[last] ^= 1;
    fs::write(layout.blob_path(&digest(&packed)), &bad).expect("write");
    let said = lab.run(["import", "-q", "layout", "app"]);
    assert_eq!(said.code, Some(65), "{said:?}");
    fs::write(layout.blob_path(&digest(&packed)), &packed[..packed.len() / 2]).expect("write");
    let said = lab.run(["import", "-q", "layout", "app"]);
    assert_eq!(said.code, Some(65), "{said:?}");
    let mut longer = packed.clone();
    longer.extend(gzip(b"more"));
    fs::write(layout.blob_path(&digest(&packed)), &longer).expect("write");
    lab.run(["import", "-q", "layout", "app"]).refused(65, "longer than");
    lab.assert_empty();
}

#[test]
fn documents_that_are_not_what_their_digest_says_are_refused() {
    let lab = Lab::new();
    let (dir, digest) = simple_layout(lab.path("layout"));
    let manifest = dir.join("blobs/sha256").join(digest.trim_start_matches("sha256:"));
    let mut text = fs::read_to_string(&manifest).expect("manifest");
    text.push(' ');
    fs::write(&manifest, text).expect("write");
    lab.run(["import", "-q", "layout", "app"]).refused(65, "is damaged: its content is");
    fs::remove_file(&manifest).expect("remove");
    lab.run(["import", "-q", "layout", "app"]).refused(65, "lacks the blob");
    lab.assert_empty();
}

#[test]
fn indexes_cannot_be_nested_without_end() {
    let lab = Lab::new();
    let mut layout = Layout::new(lab.path("layout"));
    let mut descriptor = layout.image(&[base_layer()], arch());
    for _ in 0..20 {
        descriptor = layout.index(&[descriptor]);
    }
    layout.add(descriptor, None, None);
    layout.finish();
    lab.run(["import", "-q", "layout", "app"]).refused(65, "nests more than");
    // A circle cannot be made with right digests; a wrong one is caught as such.
    let circle =
        format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"{}","size":1}}]}}"#, digest(b"circle"));
    fs::write(layout.blob_path(&digest(b"circle")), circle).expect("write");
    layout.manifests = vec![json!({"digest": digest(b"circle"), "size": 1})];
    layout.finish();
    lab.run(["import", "-q", "layout", "app"]).refused(65, "is damaged");
    lab.assert_empty();
}

#[test]
fn a_layer_that_climbs_out_is_refused_and_one_that_only_tries_is_harmless() {
    let lab = Lab::new();
    let climbing = tar_of(&[("etc/", b""), ("../../../../../../tmp/escaped", b"x")]);
    let members = docker_archive(&[(&["app:1"], &[climbing])]);
    lab.pipe(["import", "-q", "-", "app"], &tar_members(&members)).refused(65, "cannot convert app:latest");
    lab.assert_empty();
}

#[test]
fn truncated_archives_are_refused() {
    let lab = Lab::new();
    let tar = tar_members(&docker_archive(&[(&["app:1"], &[base_layer()])]));
    for part in [600, tar.len() / 2] {
        let said = lab.pipe(["import", "-q", "-", "app"], &tar[..part]);
        assert_eq!(said.code, Some(65), "{said:?}");
    }
    let cut = &gzip(&base_layer())[..100];
    let said = lab.pipe(["import", "-q", "-", "app"], cut);
    assert!(said.code != Some(0), "{said:?}");
    lab.assert_empty();
}
