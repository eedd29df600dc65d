//! Which pages hold which prefix: a tree of whole pages of tokens.
//!
//! A node stands for [`PAGE_TOKENS`] tokens after its parent's, and names at most one page in each KV group that holds
//! their keys and values. Nodes are found by a chained SHA-256 (128 bits of it) over salt and tokens, but a hit counts
//! only when parent and tokens are equal as well, so a collision costs a miss and never a wrong answer.
//!
//! It counts no holders and evicts nothing: that is for [`super::pages`] and [`super::Kv`].

use std::collections::{HashMap, HashSet, VecDeque};

use sha2::{Digest, Sha256};
use tensor::{NO_PAGE, PAGE_TOKENS};

use crate::request::CachePolicy;

/// Keys of removed nodes that are remembered, to tell "evicted" from "never seen".
const REMEMBERED: usize = 4096;
/// Siblings looked at, to tell where a prompt left what is cached.
const SIBLINGS_COMPARED: usize = 64;

/// A place in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// Before the first token, under a salt.
    Root(Key),
    /// After a node's tokens.
    Node(NodeId),
}

/// Index of a node; reused after the node is gone.
pub(crate) type NodeId = u32;

/// Stands for a salt and the tokens up to a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Key(u128);

/// A tree of prefixes.
#[derive(Debug)]
pub(crate) struct PrefixTree {
    nodes: Vec<Node>,
    vacant: Vec<NodeId>,
    by_key: HashMap<Key, NodeId>,
    /// First nodes of each salt.
    roots: HashMap<Key, Vec<NodeId>>,
    gone: Remembered,
    groups: usize,
    max_nodes: usize,
    /// All ones, except in tests that want collisions.
    key_mask: u128,
}

#[derive(Debug)]
struct Node {
    key: Key,
    parent: Place,
    tokens: Box<[u32]>,
    /// `[groups]`, [`NO_PAGE`] where there is none.
    pages: Box<[u32]>,
    children: Vec<NodeId>,
    /// Sequences that stand here and will add children.
    visitors: u32,
}

impl PrefixTree {
    /// An empty tree for `groups` KV groups, of at most `max_nodes` nodes.
    pub(crate) fn new(groups: usize, max_nodes: usize) -> Self {
        Self {
            nodes: Vec::new(),
            vacant: Vec::new(),
            by_key: HashMap::new(),
            roots: HashMap::new(),
            gone: Remembered::default(),
            groups,
            max_nodes,
            key_mask: !0,
        }
    }

    /// Where prompts of this policy begin; `None` if they stay out.
    pub(crate) fn root(policy: &CachePolicy) -> Option<Place> {
        match policy {
            CachePolicy::Off => None,
            CachePolicy::Shared => Some(Place::Root(Key(0))),
            CachePolicy::Salted(salt) => Some(Place::Root(Key::of(&[salt], !0))),
        }
    }

    /// The node that continues `place` with `tokens` (a whole page).
    pub(crate) fn child(&self, place: Place, tokens: &[u32]) -> Option<NodeId> {
        let id = *self.by_key.get(&self.key_after(place, tokens))?;
        let node = &self.nodes[id as usize];
        (node.parent == place && *node.tokens == *tokens).then_some(id)
    }

    /// The node that continues `place` with `tokens`, made if need be. `None` if there is no room for it, or another
    /// node has its key.
    pub(crate) fn child_or_insert(&mut self, place: Place, tokens: &[u32]) -> Option<NodeId> {
        debug_assert_eq!(tokens.len(), PAGE_TOKENS);
        let key = self.key_after(place, tokens);
        if let Some(&id) = self.by_key.get(&key) {
            let node = &self.nodes[id as usize];
            return (node.parent == place && *node.tokens == *tokens).then_some(id);
        }
        if self.by_key.len() >= self.max_nodes {
            return None;
        }
        let node = Node {
            key,
            parent: place,
            tokens: tokens.into(),
            pages: vec![NO_PAGE; self.groups].into(),
            children: Vec::new(),
            visitors: 0,
        };
        let id = match self.vacant.pop() {
            Some(id) => {
                self.nodes[id as usize] = node;
                id
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as NodeId
            }
        };
        self.by_key.insert(key, id);
        self.children_mut(place).push(id);
        Some(id)
    }

    /// The page of a node in a group, or [`NO_PAGE`].
    pub(crate) fn page(&self, node: NodeId, group: usize) -> u32 {
        self.nodes[node as usize].pages[group]
    }

    /// Names the page of a node in a group.
    pub(crate) fn set_page(&mut self, node: NodeId, group: usize, page: u32) {
        self.nodes[node as usize].pages[group] = page;
    }

    /// The page of a node in a group was given to others.
    pub(crate) fn clear_page(&mut self, node: NodeId, group: usize) {
        self.nodes[node as usize].pages[group] = NO_PAGE;
        self.prune(node);
    }

    /// A sequence stands here: the node stays, even without pages.
    pub(crate) fn enter(&mut self, place: Place) {
        if let Place::Node(id) = place {
            self.nodes[id as usize].visitors += 1;
        }
    }

    /// A sequence that stood here is gone or has moved on.
    pub(crate) fn leave(&mut self, place: Place) {
        if let Place::Node(id) = place {
            self.nodes[id as usize].visitors -= 1;
            self.prune(id);
        }
    }

    /// How many of `tokens` the best continuation of `place` begins with; `None` if nothing continues it.
    pub(crate) fn common_tokens(&self, place: Place, tokens: &[u32]) -> Option<usize> {
        let children = match place {
            Place::Root(salt) => self.roots.get(&salt)?,
            Place::Node(id) => &self.nodes[id as usize].children,
        };
        let common = |&id: &NodeId| {
            let node = &self.nodes[id as usize];
            node.tokens.iter().zip(tokens).take_while(|(a, b)| a == b).count()
        };
        children.iter().rev().take(SIBLINGS_COMPARED).map(common).max()
    }

    /// Whether a node that continued `place` with `tokens` was removed lately.
    pub(crate) fn was_removed(&self, place: Place, tokens: &[u32]) -> bool {
        self.gone.contains(self.key_after(place, tokens))
    }

    /// Whether the tree agrees with `named`, all pages that it should name (node, group, page), with `visitors`, the
    /// sequences that stand at each place, and with itself.
    pub(crate) fn agrees_with(&self, named: &HashSet<(NodeId, usize, u32)>, visitors: &HashMap<Place, u32>) -> bool {
        let agrees = |(key, &id): (&Key, &NodeId)| {
            let Some(node) = self.nodes.get(id as usize) else { return false };
            let siblings = match node.parent {
                Place::Root(salt) => self.roots.get(&salt),
                Place::Node(parent) => self.nodes.get(parent as usize).map(|parent| &parent.children),
            };
            node.key == *key
                && siblings.is_some_and(|siblings| siblings.contains(&id))
                && node.visitors == visitors.get(&Place::Node(id)).copied().unwrap_or(0)
        };
        let pages_of = |&id: &NodeId| {
            let pages = self.nodes[id as usize].pages.iter().enumerate();
            pages.filter(|&(_, &page)| page != NO_PAGE).map(move |(group, &page)| (id, group, page))
        };
        let is_live = |place: &Place| match place {
            Place::Root(_) => true,
            Place::Node(id) => self.nodes.get(*id as usize).is_some_and(|node| self.by_key.get(&node.key) == Some(id)),
        };
        self.by_key.iter().all(agrees)
            && self.by_key.len() + self.vacant.len() == self.nodes.len()
            && self.by_key.values().flat_map(pages_of).collect::<HashSet<_>>() == *named
            && visitors.keys().all(is_live)
    }

    fn key_after(&self, place: Place, tokens: &[u32]) -> Key {
        let Key(before) = match place {
            Place::Root(salt) => salt,
            Place::Node(id) => self.nodes[id as usize].key,
        };
        let mut bytes = [0; PAGE_TOKENS * 4];
        for (to, token) in bytes.chunks_exact_mut(4).zip(tokens) {
            to.copy_from_slice(&token.to_le_bytes());
        }
        Key::of(&[&before.to_le_bytes(), &bytes], self.key_mask)
    }

    fn children_mut(&mut self, place: Place) -> &mut Vec<NodeId> {
        match place {
            Place::Root(salt) => self.roots.entry(salt).or_default(),
            Place::Node(id) => &mut self.nodes[id as usize].children,
        }
    }

    /// Removes a node that serves nothing, and then its parents likewise.
    fn prune(&mut self, mut id: NodeId) {
        loop {
            let node = &mut self.nodes[id as usize];
            if node.visitors > 0 || !node.children.is_empty() || node.pages.iter().any(|&page| page != NO_PAGE) {
                return;
            }
            let (key, parent) = (node.key, node.parent);
            node.tokens = Box::default();
            self.by_key.remove(&key);
            self.gone.insert(key);
            self.vacant.push(id);
            let siblings = self.children_mut(parent);
            siblings.retain(|&sibling| sibling != id);
            match parent {
                Place::Node(parent) => id = parent,
                Place::Root(salt) => {
                    if siblings.is_empty() {
                        self.roots.remove(&salt);
                    }
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
impl PrefixTree {
    /// Keeps only the lowest `bits` of keys, so that they collide.
    pub(crate) fn weaken_keys(&mut self, bits: u32) {
        self.key_mask = (1 << bits) - 1;
    }

    /// Nodes in the tree.
    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }
}

impl Key {
    fn of(parts: &[&[u8]], mask: u128) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update(part);
        }
        let digest: [u8; 32] = hash.finalize().into();
        let (half, _) = digest.split_first_chunk::<16>().expect("a digest has 32 bytes");
        Self(u128::from_le_bytes(*half) & mask)
    }
}

/// The latest [`REMEMBERED`] keys.
#[derive(Debug, Default)]
struct Remembered {
    order: VecDeque<Key>,
    keys: HashSet<Key>,
}

impl Remembered {
    fn insert(&mut self, key: Key) {
        if !self.keys.insert(key) {
            return;
        }
        self.order.push_back(key);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.keys.remove(&oldest);
        }
    }

    fn contains(&self, key: Key) -> bool {
        self.keys.contains(&key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page_of(token: u32) -> Vec<u32> {
        vec![token; PAGE_TOKENS]
    }

    fn shared() -> Place {
        PrefixTree::root(&CachePolicy::Shared).expect("shared prompts have a root")
    }

    #[test]
    fn a_node_is_found_by_its_whole_path_only() {
        let mut tree = PrefixTree::new(1, 100);
        let a = tree.child_or_insert(shared(), &page_of(1)).expect("room");
        let b = tree.child_or_insert(Place::Node(a), &page_of(2)).expect("room");
        assert_eq!(tree.child(shared(), &page_of(1)), Some(a));
        assert_eq!(tree.child(Place::Node(a), &page_of(2)), Some(b));
        assert_eq!(tree.child(shared(), &page_of(2)), None);
        let salted = PrefixTree::root(&CachePolicy::Salted([7; 32])).expect("salted prompts have a root");
        assert_eq!(tree.child(salted, &page_of(1)), None);
        assert_eq!(tree.common_tokens(salted, &page_of(1)), None);
        assert_eq!(PrefixTree::root(&CachePolicy::Off), None);
    }

    #[test]
    fn colliding_keys_never_hit() {
        let mut tree = PrefixTree::new(1, 10_000);
        tree.weaken_keys(8);
        let mut found = 0;
        for token in 0..2000 {
            let node = tree.child_or_insert(shared(), &page_of(token));
            assert_eq!(tree.child(shared(), &page_of(token)), node);
            found += usize::from(node.is_some());
        }
        assert!((200..=256).contains(&found), "{found} of 256 keys used");
    }

    #[test]
    fn a_node_goes_when_nothing_needs_it_and_takes_bare_parents_along() {
        let mut tree = PrefixTree::new(1, 100);
        let a = tree.child_or_insert(shared(), &page_of(1)).expect("room");
        let b = tree.child_or_insert(Place::Node(a), &page_of(2)).expect("room");
        tree.set_page(a, 0, 10);
        tree.set_page(b, 0, 11);
        tree.clear_page(a, 0);
        assert_eq!(tree.len(), 2, "its child still has a page");
        tree.enter(Place::Node(b));
        tree.clear_page(b, 0);
        assert_eq!(tree.len(), 2, "a sequence stands there");
        tree.leave(Place::Node(b));
        assert_eq!(tree.len(), 0);
        assert!(tree.was_removed(shared(), &page_of(1)));
        assert!(!tree.was_removed(shared(), &page_of(3)));
    }

    #[test]
    fn the_first_differing_token_is_found_among_siblings() {
        let mut tree = PrefixTree::new(1, 100);
        let mut tokens = page_of(1);
        tree.child_or_insert(shared(), &tokens).expect("room");
        tokens[40] = 9;
        assert_eq!(tree.common_tokens(shared(), &tokens), Some(40));
        assert_eq!(tree.common_tokens(shared(), &tokens[..10]), Some(10));
    }

    #[test]
    fn a_full_tree_takes_no_more() {
        let mut tree = PrefixTree::new(1, 2);
        assert!(tree.child_or_insert(shared(), &page_of(1)).is_some());
        assert!(tree.child_or_insert(shared(), &page_of(2)).is_some());
        assert!(tree.child_or_insert(shared(), &page_of(3)).is_none());
        assert!(tree.child_or_insert(shared(), &page_of(2)).is_some());
    }
}
