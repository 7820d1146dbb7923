//! Random stacks of layers against a naive model: a flat map of paths, written from the rules alone and
//! sharing nothing with the crate.

mod fixture;

use std::collections::{BTreeMap, BTreeSet};

use fixture::tar::*;
use fixture::{assert_same, image, reader, sources, Item, Kind, Tree};
use grus_squash::{Compression, Error, Options};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Op {
    File { content: usize },
    Dir,
    Symlink { target: &'static str },
    Hard { target: String },
    Fifo,
    Whiteout,
    Opaque,
}

type Layer = Vec<(String, Op)>;

fn contents() -> Vec<Vec<u8>> {
    let noise = fixture::torture::noise(20_000);
    let zero_end = [&noise[..4096], &[0; 9000]].concat();
    vec![
        vec![],
        b"small".to_vec(),
        noise[..4095].to_vec(),
        noise[..4096].to_vec(),
        noise[..8200].to_vec(),
        noise.clone(),
        vec![0; 12_288],
        zero_end,
    ]
}

fn path() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["a", "b", "c", "s"]);
    prop::collection::vec(name, 1..4).prop_map(|parts| parts.join("/"))
}

fn op() -> impl Strategy<Value = Op> {
    let targets = vec!["a", "/a/b", "../b", "b/..", ".", "/", "c/a", "no/such"];
    prop_oneof![
        5 => (0..8usize).prop_map(|content| Op::File { content }),
        3 => Just(Op::Dir),
        2 => prop::sample::select(targets).prop_map(|target| Op::Symlink { target }),
        2 => path().prop_map(|target| Op::Hard { target }),
        1 => Just(Op::Fifo),
        2 => Just(Op::Whiteout),
        1 => Just(Op::Opaque),
    ]
}

fn stack() -> impl Strategy<Value = Vec<Layer>> {
    prop::collection::vec(prop::collection::vec((path(), op()), 0..9), 1..6)
}

fn entry(path: &str, op: &Op, serial: u32, contents: &[Vec<u8>]) -> Entry {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let marked = |name: &str| if parent.is_empty() { name.into() } else { format!("{parent}/{name}") };
    let e = match op {
        Op::File { content } => file(path, &contents[*content]),
        Op::Dir => dir(path),
        Op::Symlink { target } => symlink(path, target),
        Op::Hard { target } => hard(path, target),
        Op::Fifo => special(path, b'6', 0, 0),
        Op::Whiteout => return whiteout(&marked(&format!(".wh.{name}"))),
        Op::Opaque => return whiteout(&format!("{path}/.wh..wh..opq")),
    };
    let e = e.owner(u64::from(serial), 0).mtime(u64::from(serial));
    if serial.is_multiple_of(3) && !matches!(op, Op::Hard { .. }) {
        e.xattr("user.serial", (serial % 6).to_string())
    } else {
        e
    }
}

/// Paths to inodes. Paths begin with a slash; the root is the empty path.
struct Model {
    names: BTreeMap<String, usize>,
    inodes: Vec<Item>,
}

/// The image contradicts itself.
#[derive(Debug)]
struct Misfit;

/// Which operation of a layer did not fit.
#[derive(Debug)]
struct At(usize);

impl Model {
    fn new(time: u32) -> Model {
        let mut model = Model { names: BTreeMap::new(), inodes: vec![] };
        model.bind(String::new(), Kind::Dir, vec![], 0o755, 0, time);
        model
    }

    fn bind(&mut self, path: String, kind: Kind, data: Vec<u8>, mode: u16, uid: u32, mtime: u32) {
        self.inodes.push(Item { kind, mode, uid, gid: 0, mtime, data, xattrs: BTreeMap::new(), inode: 0 });
        self.names.insert(path, self.inodes.len() - 1);
    }

    fn get(&self, path: &str) -> Option<&Item> {
        self.names.get(path).map(|&i| &self.inodes[i])
    }

    fn remove(&mut self, path: &str, itself: bool) {
        let below = format!("{path}/");
        self.names.retain(|p, _| !(p.starts_with(&below) || itself && p == path));
    }

    /// Walks to a directory. `make`: with this mtime where it lacks. `stop`: symlinks not to be followed.
    fn walk(
        &mut self,
        path: &str,
        make: Option<u32>,
        stop: &BTreeSet<String>,
    ) -> Result<Option<String>, Misfit> {
        let mut todo: Vec<(String, bool)> = path.split('/').map(|p| (p.to_string(), true)).rev().collect();
        let (mut here, mut plain, mut links) = (String::new(), String::new(), 0);
        while let Some((part, original)) = todo.pop() {
            if part.is_empty() || part == "." {
                continue;
            }
            if part == ".." {
                here.truncate(here.rfind('/').unwrap_or(0));
                continue;
            }
            if original {
                plain = format!("{plain}/{part}");
            }
            let next = format!("{here}/{part}");
            match self.get(&next).map(|item| (item.kind, item.data.clone())) {
                Some((Kind::Dir, _)) => here = next,
                Some((Kind::Symlink, target)) => {
                    if links == 0 && stop.contains(&plain) {
                        return Ok(None);
                    }
                    links += 1;
                    if links > 40 {
                        return Err(Misfit);
                    }
                    let target = String::from_utf8(target).expect("generated from text");
                    if target.starts_with('/') {
                        here.clear();
                    }
                    todo.extend(target.split('/').map(|p| (p.to_string(), false)).rev());
                }
                Some(_) if make.is_some() => return Err(Misfit),
                Some(_) => return Ok(None),
                None => {
                    let Some(time) = make else { return Ok(None) };
                    self.bind(next.clone(), Kind::Dir, vec![], 0o755, 0, time);
                    here = next;
                }
            }
        }
        Ok(Some(here))
    }

    fn apply(&mut self, layer: &[(u32, String, Op)], contents: &[Vec<u8>], time: u32) -> Result<(), At> {
        let dirs = layer
            .iter()
            .filter(|(_, _, op)| matches!(op, Op::Dir))
            .map(|(_, p, _)| format!("/{p}"))
            .collect();
        for (i, (_, path, op)) in layer.iter().enumerate() {
            self.take_away(path, op, &dirs).map_err(|Misfit| At(i))?;
        }
        for (i, (serial, path, op)) in layer.iter().enumerate() {
            self.put(*serial, path, op, contents, time).map_err(|Misfit| At(i))?;
        }
        Ok(())
    }

    fn take_away(&mut self, path: &str, op: &Op, dirs: &BTreeSet<String>) -> Result<(), Misfit> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        match op {
            Op::Whiteout => {
                if let Some(dir) = self.walk(parent, None, dirs)? {
                    self.remove(&format!("{dir}/{name}"), true);
                }
            }
            Op::Opaque => {
                if let Some(dir) = self.walk(path, None, dirs)? {
                    self.remove(&dir, false);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn put(
        &mut self,
        serial: u32,
        path: &str,
        op: &Op,
        contents: &[Vec<u8>],
        time: u32,
    ) -> Result<(), Misfit> {
        let none = BTreeSet::new();
        if matches!(op, Op::Whiteout | Op::Opaque) {
            return Ok(());
        }
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let linked = match op {
            Op::Hard { target } => {
                let (parent, name) = target.rsplit_once('/').unwrap_or(("", target));
                let dir = self.walk(parent, None, &none)?.ok_or(Misfit)?;
                let inode = *self.names.get(&format!("{dir}/{name}")).ok_or(Misfit)?;
                if self.inodes[inode].kind == Kind::Dir {
                    return Err(Misfit);
                }
                Some(inode)
            }
            _ => None,
        };
        let full = format!("{}/{name}", self.walk(parent, Some(time), &none)?.ok_or(Misfit)?);
        let keep = matches!(op, Op::Dir) && self.get(&full).is_some_and(|item| item.kind == Kind::Dir);
        if !keep {
            self.remove(&full, true);
        }
        let (kind, data, mode) = match op {
            Op::File { content } => (Kind::File, contents[*content].clone(), 0o644),
            Op::Dir => (Kind::Dir, vec![], 0o755),
            Op::Symlink { target } => (Kind::Symlink, target.as_bytes().to_vec(), 0o777),
            _ => (Kind::Fifo, vec![], 0o644),
        };
        match linked {
            Some(inode) => drop(self.names.insert(full, inode)),
            None => {
                self.bind(full, kind, data, mode, serial, serial);
                if serial.is_multiple_of(3) {
                    let value = (serial % 6).to_string().into_bytes();
                    let last = self.inodes.last_mut().expect("just bound");
                    last.xattrs.insert(b"user.serial".to_vec(), value);
                }
            }
        }
        Ok(())
    }

    fn tree(&self) -> Tree {
        let item = |&i: &usize| Item { inode: i as u32, ..self.inodes[i].clone() };
        self.names.iter().map(|(p, i)| (p.trim_start_matches('/').as_bytes().to_vec(), item(i))).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn conversion_agrees_with_the_model(stack in stack(), keep_misfits in prop::bool::weighted(0.1)) {
        let contents = contents();
        let mut serial = 0;
        let mut layers: Vec<Vec<(u32, String, Op)>> = stack.into_iter().map(|layer| layer.into_iter().map(|(path, op)| {
            serial += 1;
            (serial, path, op)
        }).collect()).collect();
        let time = 1000;
        let mut model = Model::new(time);
        let mut fits = Ok(());
        for layer in &mut layers {
            // Most contradictions are taken out, or there would be little else.
            fits = loop {
                let mut next = Model { names: model.names.clone(), inodes: model.inodes.clone() };
                match next.apply(layer, &contents, time) {
                    Err(At(i)) if !keep_misfits => drop(layer.remove(i)),
                    result => {
                        model = next;
                        break result;
                    }
                }
            };
            if fits.is_err() {
                break;
            }
        }
        let tars: Vec<_> = layers.iter()
            .map(|l| layer(l.iter().map(|(serial, path, op)| entry(path, op, *serial, &contents))))
            .collect();
        let options = Options {
            default_time: Some(time),
            block_size: 4096,
            compression: Compression::Lz4,
            workers: 1,
            ..Options::default()
        };
        match (fits, image(&sources(&tars), &options)) {
            (Ok(()), Ok((bytes, summary))) => {
                let tree = reader::Image::open(&bytes).tree();
                let inodes: BTreeSet<_> = tree.values().map(|item| item.inode).collect();
                prop_assert_eq!(summary.inodes as usize, inodes.len());
                assert_same(tree, model.tree());
            }
            (Err(At(_)), Err(Error::Merge { .. })) => {}
            (fits, result) => prop_assert!(false, "model fits: {}, conversion: {:?}", fits.is_ok(), result.map(|r| r.1)),
        }
    }
}
