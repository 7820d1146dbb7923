//! Policies, and cosign's signatures: made with openssl, kept by a real registry. What is wrong must not get in, and must
//! leave nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use serde_json::{json, Value};

use crate::archives::*;
use crate::pull::{json as parsed, Registry};
use crate::support::Lab;

/// A registry with the image `app:1` in it, and the image's digest.
fn registry(lab: &Lab) -> (Registry, String) {
    let registry = Registry::start(lab).expect("ci/packages brings docker-registry and skopeo");
    let (layout, digest) = simple_layout(lab.path("layout"));
    registry.push(&layout, "team/app:1");
    (registry, digest)
}

fn openssl(args: &[&str]) -> Vec<u8> {
    let output = Command::new("openssl").args(args).output().expect("ci/packages brings openssl");
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

/// A new key pair of a kind, in `NAME.pem` and `NAME.pub`; the latter.
fn key(lab: &Lab, name: &str, kind: &[&str]) -> PathBuf {
    let (private, public) = (lab.path(&format!("{name}.pem")), lab.path(&format!("{name}.pub")));
    let shown = private.to_str().expect("UTF-8");
    openssl(&[&["genpkey", "-out", shown], kind].concat());
    openssl(&["pkey", "-in", shown, "-pubout", "-out", public.to_str().expect("UTF-8")]);
    public
}

const P256: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];

/// What cosign signs.
fn payload(kind: &str, name: &str, digest: &str) -> String {
    json!({"critical": {"identity": {"docker-reference": name}, "image": {"docker-manifest-digest": digest},
           "type": kind}, "optional": null})
    .to_string()
}

fn cosign(name: &str, digest: &str) -> String {
    payload("cosign container image signature", name, digest)
}

/// A signature of `text` by the private key beside `public`.
fn sign(public: &Path, text: &str) -> String {
    let (key, file) = (public.with_extension("pem"), public.with_extension("text"));
    fs::write(&file, text).expect("write");
    let (key, file) = (key.to_str().expect("UTF-8"), file.to_str().expect("UTF-8"));
    let ed = String::from_utf8_lossy(&openssl(&["pkey", "-in", key, "-noout", "-text"])).contains("ED25519");
    STANDARD.encode(match ed {
        true => openssl(&["pkeyutl", "-sign", "-rawin", "-inkey", key, "-in", file]),
        false => openssl(&["dgst", "-sha256", "-sign", key, file]),
    })
}

/// Puts signatures where cosign puts them.
fn attach(lab: &Lab, registry: &Registry, digest: &str, signatures: &[(String, String)]) {
    let mut layout = Layout::new(lab.path("signatures"));
    let layers: Vec<Value> = signatures
        .iter()
        .map(|(text, signature)| {
            let mut layer = layout.blob("application/vnd.dev.cosign.simplesigning.v1+json", text.as_bytes());
            layer["annotations"] = json!({"dev.cosignproject.cosign/signature": signature});
            layer
        })
        .collect();
    let diff_ids: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
    let config = json!({"architecture": "", "os": "", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let config = layout.document("application/vnd.oci.image.config.v1+json", &config);
    let manifest = layout.document(
        "application/vnd.oci.image.manifest.v1+json",
        &json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": config,
                "layers": layers}),
    );
    layout.add(manifest, Some("latest"), None);
    registry.push(layout.finish(), &format!("team/app:{}.sig", digest.replace(':', "-")));
}

/// The user's policy.
pub fn users_policy(lab: &Lab, policy: &Value) -> PathBuf {
    let file = lab.path(".config/containers/policy.json");
    fs::create_dir_all(lab.path(".config/containers")).expect("mkdir");
    fs::write(&file, policy.to_string()).expect("write");
    file
}

/// One requirement for everything from a registry, and nothing else gets in.
pub fn only(registry: &Registry, requirement: Value) -> Value {
    json!({"default": [{"type": "reject"}], "transports": {"docker": {registry.host.as_str(): [requirement]}}})
}

fn by(key: &Path) -> Value {
    json!({"type": "sigstoreSigned", "keyPath": key, "signedIdentity": {"type": "matchRepository"}})
}

#[test]
fn every_wrong_signature_of_cosigns_is_refused_and_a_good_one_is_remembered() {
    let lab = Lab::new();
    let (registry, digest) = registry(&lab);
    let (good, other) = (key(&lab, "good", P256), key(&lab, "other", P256));
    let policy = users_policy(&lab, &only(&registry, by(&good)));
    let (repository, name) = (format!("{}/team/app", registry.host), format!("{}/team/app:1", registry.host));

    lab.run(["pull", &name]).refused(65, "it has no sigstore signature");
    lab.assert_empty();
    let text = cosign(&repository, &digest);
    let elsewhere = cosign(&repository, &format!("sha256:{}", "0".repeat(64)));
    let alias = cosign(&format!("{}/team/apple", registry.host), &digest);
    let simple = payload("atomic container signature", &repository, &digest);
    let wrong = [
        ((text.clone(), sign(&other, &text)), "it is by none of the policy's keys"),
        ((format!("{text} "), sign(&good, &text)), "or was tampered with"),
        ((elsewhere.clone(), sign(&good, &elsewhere)), "it is for another image, sha256:0000"),
        ((alias.clone(), sign(&good, &alias)), "/team/apple'"),
        ((simple.clone(), sign(&good, &simple)), "it signs a 'atomic container signature'"),
        ((text.clone(), "%".into()), "it is not base64"),
        ((text.clone(), String::new()), "it is by none of the policy's keys"),
        (("{}".into(), sign(&good, "{}")), "what it signs is malformed"),
    ];
    for (signature, why) in &wrong {
        attach(&lab, &registry, &digest, std::slice::from_ref(signature));
        lab.run(["pull", &name]).refused(65, why);
        lab.assert_empty();
    }
    // A good one counts whatever lies beside it.
    let mut all: Vec<(String, String)> = wrong.into_iter().map(|(signature, _)| signature).collect();
    all.push((text.clone(), sign(&good, &text)));
    attach(&lab, &registry, &digest, &all);
    let signed = json!([{"scheme": "sigstore", "key": spki(&good), "identity": repository, "digest": digest,
                         "policy": policy}]);
    assert_eq!(parsed(lab.run(["pull", "--json", &name]))["signatures"], signed);
    let said = lab.run(["pull", &name]).ok().out;
    assert!(
        said.contains("is up to date")
            && said.contains(&format!("signed as {repository} by the key sha256:")),
        "{said}"
    );
    assert_eq!(parsed(lab.run(["images", "--json"]))[0]["signatures"], signed);
    assert_eq!(parsed(lab.run(["inspect", &name]))[0]["Signatures"], signed);
    let _ = lab.run(["tag", &name, "mine:1"]).ok();
    assert_eq!(
        parsed(lab.run(["images", "--json", "mine:1"]))[0]["signatures"],
        signed,
        "whatever it is called here"
    );

    // Without a rule for names, a tag that nobody signed is not taken.
    attach(&lab, &registry, &digest, &[(text.clone(), sign(&good, &text))]);
    let mut strict = by(&good);
    strict.as_object_mut().expect("an object").remove("signedIdentity");
    users_policy(&lab, &only(&registry, strict));
    let said = lab.run(["pull", &name]).refused(65, &format!("it is for the name '{repository}'"));
    assert!(said.contains("matchRepository"), "{said}");
    let pinned = format!("{repository}@{digest}");
    assert_eq!(parsed(lab.run(["pull", "--json", &pinned]))["signatures"][0]["identity"], repository);
}

fn spki(public: &Path) -> String {
    digest(&openssl(&["pkey", "-pubin", "-in", public.to_str().expect("UTF-8"), "-outform", "DER"]))
}

#[test]
fn keys_of_every_kind_sign_and_any_of_several_will_do() {
    let lab = Lab::new();
    let (registry, digest) = registry(&lab);
    let (repository, name) = (format!("{}/team/app", registry.host), format!("{}/team/app:1", registry.host));
    let text = cosign(&repository, &digest);
    let unused = key(&lab, "unused", P256);
    for (kind, how) in [
        ("p384", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"][..]),
        ("ed25519", &["-algorithm", "ED25519"]),
        ("rsa", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]),
    ] {
        let public = key(&lab, kind, how);
        attach(&lab, &registry, &digest, &[(text.clone(), sign(&public, &text))]);
        users_policy(&lab, &only(&registry, by(&unused)));
        lab.run(["pull", &name]).refused(65, "it is by none of the policy's keys");
        let mut either = by(&unused);
        either.as_object_mut().expect("an object").remove("keyPath");
        either["keyPaths"] = json!([unused, public]);
        users_policy(&lab, &only(&registry, either.clone()));
        assert_eq!(
            parsed(lab.run(["pull", "--json", &name]))["signatures"][0]["key"],
            spki(&public),
            "{kind}"
        );
        either.as_object_mut().expect("an object").remove("keyPaths");
        either["keyData"] = STANDARD.encode(fs::read(&public).expect("the key")).into();
        users_policy(&lab, &only(&registry, either));
        let _ = lab.run(["pull", &name]).ok();
    }
    let odd = key(&lab, "odd", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp256k1"]);
    users_policy(&lab, &only(&registry, by(&odd)));
    lab.run(["pull", &name]).refused(65, "are of a kind that is not supported");
}

#[test]
fn who_signs_an_index_signs_the_images_in_it() {
    let lab = Lab::new();
    let registry = Registry::start(&lab).expect("ci/packages brings docker-registry and skopeo");
    let mut layout = Layout::new(lab.path("multi"));
    let mut image = layout.image(&[base_layer()], arch());
    image["platform"] = json!({"os": "linux", "architecture": arch()});
    let index = layout.index(&[image.clone()]);
    layout.add(index.clone(), Some("latest"), None);
    registry.push(layout.finish(), "team/app:1");
    let name = format!("{}/team/app:1", registry.host);
    let good = key(&lab, "good", P256);
    users_policy(&lab, &only(&registry, by(&good)));
    for signed in [&index, &image] {
        let digest = signed["digest"].as_str().expect("digest");
        let text = cosign(&format!("{}/team/app", registry.host), digest);
        attach(&lab, &registry, digest, &[(text.clone(), sign(&good, &text))]);
        let made = parsed(lab.run(["pull", "--json", &name]));
        assert_eq!(made["digest"], image["digest"]);
        // The image's own signature goes before its index's.
        assert_eq!(made["signatures"][0]["digest"], *digest);
    }
}

#[test]
fn no_policy_of_a_user_weakens_the_sites() {
    let lab = Lab::new();
    let (registry, digest) = registry(&lab);
    let name = format!("{}/team/app:1", registry.host);
    let accept = json!({"default": [{"type": "insecureAcceptAnything"}]});
    users_policy(&lab, &accept);
    let _ = lab.run(["pull", &name]).ok();

    // What is here from before is held to the policy as well; a digest proves no signature.
    let good = key(&lab, "good", P256);
    let site = lab.path("site-policy.json");
    fs::write(&site, only(&registry, by(&good)).to_string()).expect("write");
    fs::write(lab.path("grus.toml"), format!("[signatures]\npolicy = '{}'\n", site.display()))
        .expect("write");
    let pinned = format!("{}/team/app@{digest}", registry.host);
    for name in [&name, &pinned] {
        let said = lab.run(["pull", name]).refused(65, "it has no sigstore signature");
        assert!(said.contains("site-policy.json"), "{said}");
    }
    let text = cosign(&format!("{}/team/app", registry.host), &digest);
    attach(&lab, &registry, &digest, &[(text.clone(), sign(&good, &text))]);
    for name in [&name, &pinned] {
        let _ = lab.run(["pull", name]).ok();
    }
    // A user may ask for more.
    let users = users_policy(&lab, &only(&registry, by(&key(&lab, "own", P256))));
    lab.run(["pull", &name]).refused(65, &users.display().to_string());
    users_policy(&lab, &accept);
    lab.run(["pull", "nowhere.invalid/app:1"])
        .refused(65, "nowhere.invalid/app:1 is rejected by the signature policy");
}

#[test]
fn a_policy_or_key_that_cannot_be_understood_lets_nothing_in() {
    let lab = Lab::new();
    let (registry, _) = registry(&lab);
    let name = format!("{}/team/app:1", registry.host);
    let policy = |text: &str| {
        let file = users_policy(&lab, &Value::Null);
        fs::write(file, text).expect("write");
    };
    let reject = json!({"default": [{"type": "reject"}]}).to_string();
    for text in
        ["", "{", "null", r#"{"default":[]}"#, &reject.replace("reject", "allow"), &format!("{reject},")]
    {
        policy(text);
        lab.run(["pull", &name]).refused(78, ".config/containers/policy.json is wrong: ");
    }
    fs::remove_file(lab.path(".config/containers/policy.json")).expect("remove");
    fs::create_dir(lab.path(".config/containers/policy.json")).expect("mkdir");
    lab.run(["pull", &name]).refused(78, "cannot read the signature policy");
    fs::remove_dir(lab.path(".config/containers/policy.json")).expect("remove");

    users_policy(&lab, &only(&registry, by(Path::new("/nonexistent.pub"))));
    lab.run(["pull", &name]).refused(78, "cannot read the key /nonexistent.pub");
    fs::write(lab.path("none.pub"), "no key").expect("write");
    users_policy(&lab, &only(&registry, by(&lab.path("none.pub"))));
    lab.run(["pull", &name]).refused(78, "one is no public key in PEM form");
    let keyless = json!({"type": "sigstoreSigned", "fulcio": {"caPath": "/ca"}, "rekorPublicKeyPath": "/r"});
    users_policy(&lab, &only(&registry, keyless));
    lab.run(["pull", &name]).refused(78, "wants signatures without a key (fulcio)");

    users_policy(&lab, &json!({"default": [{"type": "insecureAcceptAnything"}]}));
    fs::write(lab.path("grus.toml"), "[signatures]\npolicy = '/nonexistent.json'\n").expect("write");
    lab.run(["pull", &name]).refused(78, "cannot read the signature policy /nonexistent.json");
    lab.assert_empty();
}

#[test]
fn masses_of_signatures_are_refused_and_huge_ones_passed_over() {
    let lab = Lab::new();
    let (registry, digest) = registry(&lab);
    let (repository, name) = (format!("{}/team/app", registry.host), format!("{}/team/app:1", registry.host));
    let good = key(&lab, "good", P256);
    users_policy(&lab, &only(&registry, by(&good)));
    let text = cosign(&repository, &digest);
    let right = (text.clone(), sign(&good, &text));
    let many: Vec<(String, String)> = (0..129).map(|n| (format!("{n}"), "AAAA".into())).collect();
    attach(&lab, &registry, &digest, &[&many[..], std::slice::from_ref(&right)].concat());
    lab.run(["pull", &name]).refused(65, "are 130, more than 128");
    lab.assert_empty();
    // Itself signed by the right key.
    let huge = format!("{text}{}", " ".repeat(200_000));
    let huge = (huge.clone(), sign(&good, &huge));
    attach(&lab, &registry, &digest, std::slice::from_ref(&huge));
    lab.run(["pull", &name]).refused(65, "it has no sigstore signature");
    attach(&lab, &registry, &digest, &[huge, right]);
    let _ = lab.run(["pull", &name]).ok();
    // A list that is no list.
    let (layout, _) = simple_layout(lab.path("plain"));
    registry.push(&layout, &format!("team/app:{}.sig", digest.replace(':', "-")));
    lab.run(["pull", &name]).refused(65, "it has no sigstore signature");
}
