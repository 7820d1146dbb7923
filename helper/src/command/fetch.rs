//! Owns which layers of a pull are fetched at once, in parallel and ahead of their use, and which only if an earlier
//! image that has them turns out not to do.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use grus_squash::{KeptLayer, LayerSource};

use crate::registry::{Client, Held, Progress, RegistryError, Resolved};

/// The layers of `resolved` as sources, bottom first. Those that are `kept` somewhere are fetched when they are
/// opened; `held` are the layers' beginnings that are here as they are.
pub fn sources(
    client: &Arc<Client>,
    resolved: &Resolved,
    mut held: Vec<Option<Held>>,
    kept: &[Vec<KeptLayer>],
    progress: &Arc<dyn Progress>,
) -> Result<Vec<Arc<dyn LayerSource>>, RegistryError> {
    held.resize_with(resolved.layers.len(), || None);
    let is_kept = |layer: &usize| kept.get(*layer).is_some_and(|kept| !kept.is_empty());
    let (late, now): (Vec<usize>, Vec<usize>) = (0..resolved.layers.len()).partition(is_kept);
    let mut all: Vec<Option<Arc<dyn LayerSource>>> = resolved.layers.iter().map(|_| None).collect();
    let mut first = vec![];
    for layer in &now {
        first.push(held[*layer].take());
    }
    if !now.is_empty() {
        let part = Part::of(resolved, now, progress);
        for (layer, source) in part.layers.clone().into_iter().zip(part.download(client, first)?) {
            all[layer] = Some(source);
        }
    }
    for layer in late {
        let name = resolved.layers[layer].digest.to_string();
        let part = Part::of(resolved, vec![layer], progress);
        let state = Mutex::new(State { held: held[layer].take(), source: None });
        all[layer] = Some(Arc::new(Late { client: client.clone(), part, name, state }));
    }
    Ok(all.into_iter().flatten().collect())
}

/// Some of an image's layers.
struct Part {
    resolved: Resolved,
    layers: Vec<usize>,
    progress: Arc<dyn Progress>,
}

impl Part {
    fn of(resolved: &Resolved, layers: Vec<usize>, progress: &Arc<dyn Progress>) -> Part {
        let mut chosen = resolved.clone();
        chosen.layers = layers.iter().map(|layer| resolved.layers[*layer].clone()).collect();
        let progress = Arc::new(Renumbered { progress: progress.clone(), layers: layers.clone() });
        Part { resolved: chosen, layers, progress }
    }

    fn download(
        &self,
        client: &Client,
        held: Vec<Option<Held>>,
    ) -> Result<Vec<Arc<dyn LayerSource>>, RegistryError> {
        client.download_rest(&self.resolved, held, self.progress.clone())
    }
}

/// Tells of a part's layers by their numbers in the image.
struct Renumbered {
    progress: Arc<dyn Progress>,
    layers: Vec<usize>,
}

impl Progress for Renumbered {
    fn bytes(&self, layer: usize, n: u64) {
        self.progress.bytes(self.layers[layer], n);
    }

    fn restarted(&self, layer: usize, at: u64, why: &RegistryError) {
        self.progress.restarted(self.layers[layer], at, why);
    }

    fn finished(&self, layer: usize) {
        self.progress.finished(self.layers[layer]);
    }

    fn note(&self, text: &str) {
        self.progress.note(text);
    }
}

/// A layer whose download begins when it is opened.
struct Late {
    client: Arc<Client>,
    part: Part,
    name: String,
    state: Mutex<State>,
}

struct State {
    held: Option<Held>,
    source: Option<Arc<dyn LayerSource>>,
}

impl LayerSource for Late {
    fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.source.is_none() {
            let held = vec![state.held.take()];
            let mut sources = self.part.download(&self.client, held)?;
            state.source = sources.pop();
        }
        let source = state.source.clone().ok_or_else(|| io::Error::other("no such layer"))?;
        drop(state);
        source.open()
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}
