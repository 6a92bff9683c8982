//! Reads out of a damaged outbox what can still be read, page by page and without redb, which finds nothing more where a page
//! of a tree is no page.
//!
//! The layout is that of redb's file format 3 (its `docs/design.md`):
//!
//! ```text
//! file    magic, u8 flags (bit 0: which state is the newer one) | u32 page size, pages of a region's header, of its data |
//!         at 64 and at 192 a state: at 1 whether it has tables, at 8 the page of their names, u64
//! leaf    1, 0, u16 rows | ends of the keys, u32 each | ends of the values, u32 each | keys | values; no ends of what has a
//!         fixed width
//! branch  2, 0, u16 keys | u32 | checksums of the children, 16 bytes each, keys + 1 | their page numbers, u64 each | keys
//! number  bits 0-19 index, in units of the page's size | bits 20-39 region | bits 59-63 order: 4 KiB times 2^order
//! table   its kind, u64 rows, whether there are any, u64 the page where its tree begins
//! ```

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};

use super::of_row;

pub(super) const PAGE: usize = 4096;
const FLAGS_AT: usize = 9;
const STATES_AT: [usize; 2] = [64, 192];
const GEOMETRY_AT: [usize; 3] = [12, 16, 20];
/// Page size, pages of a region's header, of its data: of a file that redb makes today.
const GEOMETRY: [usize; 3] = [PAGE, 0, 1024 * 1024];
const IS_LEAF: u8 = 1;
const IS_BRANCH: u8 = 2;
const IS_TABLE: u8 = 3;
/// Deeper trees are nonsense.
const DEPTH_MAX: usize = 12;

/// What could be read.
#[derive(Default)]
pub(super) struct Salvaged {
    /// Rows of messages, by their numbers.
    pub(super) messages: BTreeMap<u64, Vec<u8>>,
    /// Messages that were there and are not among them.
    pub(super) lost: u64,
    /// Pages of other things that were none.
    holes: u64,
    pub(super) released: Vec<u64>,
    pub(super) seen: Vec<(u16, u64)>,
    pub(super) meta: BTreeMap<String, Vec<u8>>,
}

/// How the rows of a table lie in its leaves: how wide keys and values are, where that is fixed.
#[derive(Clone, Copy)]
struct Shape {
    key: Option<usize>,
    value: Option<usize>,
}

const NAMES: Shape = Shape { key: None, value: None };
const MESSAGES: Shape = Shape { key: Some(8), value: None };
const RELEASED: Shape = Shape { key: Some(8), value: Some(0) };
const SEEN: Shape = Shape { key: Some(2), value: Some(8) };

/// The outbox in the bytes of a file, of which those that could not be read are zeros. `None`: there is none.
pub(super) fn salvage(file: &[u8]) -> Option<Salvaged> {
    let pages = Pages { file };
    let states = pages.states().filter_map(|root| pages.tables(root)).map(|tables| pages.outbox(&tables));
    // The newer one, unless a commit that broke off has left more holes in it than in the other.
    if let Some(state) = states.min_by_key(|of| (of.lost, of.holes)) {
        return Some(state);
    }
    // Nothing says which state is the newest. Of those that were, the one that was opened last and has most.
    let all = pages.places().filter_map(|at| pages.names(at)).map(|tables| pages.outbox(&tables));
    let latest = all.max_by_key(|of| (of.meta.get("opened").cloned(), of.messages.keys().next_back().copied()));
    latest.or_else(|| pages.outbox_without_names())
}

fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    bytes.get(at..)?.first_chunk().map(|bytes| usize::from(u16::from_le_bytes(*bytes)))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    bytes.get(at..)?.first_chunk().and_then(|bytes| usize::try_from(u32::from_le_bytes(*bytes)).ok())
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}

/// A table: how many rows it has, and its root.
#[derive(Clone, Copy, Default)]
struct Table {
    rows: u64,
    root: Option<u64>,
}

type Tables = BTreeMap<String, Table>;

fn table_of(definition: &[u8]) -> Option<Table> {
    (definition.first() == Some(&IS_TABLE)).then_some(())?;
    let root = (definition.get(9) == Some(&1)).then(|| u64_at(definition, 10)).flatten();
    Some(Table { rows: u64_at(definition, 1)?, root })
}

/// What a walk through a tree comes by.
enum Met<'a> {
    Row(&'a [u8], &'a [u8]),
    /// A page that is none, so many levels below the root.
    Hole(usize),
    /// A leaf, so many levels below the root.
    Leaf(usize),
}

struct Pages<'a> {
    file: &'a [u8],
}

impl<'a> Pages<'a> {
    /// Where there may be pages.
    fn places(&self) -> impl Iterator<Item = usize> {
        (PAGE..self.file.len()).step_by(PAGE)
    }

    /// Where the names of the tables are, in the newer state and in the one before it.
    fn states(&self) -> impl Iterator<Item = u64> {
        let newer = self.file.get(FLAGS_AT).map_or(0, |flags| usize::from(flags & 1));
        let root = |state: usize| {
            let at = *STATES_AT.get(state)?;
            (self.file.get(at + 1) == Some(&1)).then(|| u64_at(self.file, at + 8)).flatten()
        };
        [root(newer), root(1 - newer)].into_iter().flatten()
    }

    fn tables(&self, root: u64) -> Option<Tables> {
        let at = self.place(root)?;
        self.names(at)
    }

    /// The tables that a page names, if it does: there are so few that one page does.
    fn names(&self, at: usize) -> Option<Tables> {
        let leaf = Leaf::at(self.file, at, NAMES)?;
        let named = leaf.rows().map(|(name, table)| Some((String::from_utf8(name.to_vec()).ok()?, table_of(table)?)));
        let tables: Tables = named.collect::<Option<_>>()?;
        tables.contains_key("messages").then_some(tables)
    }

    /// As the file says, unless its beginning is not there.
    fn geometry(&self) -> [usize; 3] {
        let said = GEOMETRY_AT.map(|at| u32_at(self.file, at).unwrap_or_default());
        if said.first() == Some(&PAGE) { said } else { GEOMETRY }
    }

    fn place(&self, number: u64) -> Option<usize> {
        let [_, header, data] = self.geometry();
        let order = number >> 59;
        let index = usize::try_from(number & (0x000f_ffff >> order)).ok()?;
        let region = usize::try_from((number >> 20) & 0x000f_ffff).ok()?;
        let at = region.checked_mul((header + data) * PAGE)?.checked_add(index.checked_mul(PAGE << order)?)?;
        at.checked_add((1 + header) * PAGE)
    }

    fn outbox(&self, tables: &Tables) -> Salvaged {
        let table = |name: &str| tables.get(name).copied().unwrap_or_default();
        let root = |name: &str| table(name).root.and_then(|root| self.place(root));
        let mut salvaged = Salvaged::default();
        self.walk(root("meta"), NAMES, &mut |met| match met {
            Met::Row(key, value) => {
                salvaged.meta.extend(String::from_utf8(key.to_vec()).ok().map(|key| (key, value.to_vec())));
            }
            Met::Hole(_) => salvaged.holes += 1,
            Met::Leaf(_) => {}
        });
        self.walk(root("released"), RELEASED, &mut |met| match met {
            Met::Row(key, _) => salvaged.released.extend(u64_at(key, 0)),
            Met::Hole(_) => salvaged.holes += 1,
            Met::Leaf(_) => {}
        });
        self.walk(root("seen"), SEEN, &mut |met| match met {
            Met::Row(key, value) => {
                salvaged.seen.extend(u16_at(key, 0).zip(u64_at(value, 0)).map(|(id, mark)| (id as u16, mark)));
            }
            Met::Hole(_) => salvaged.holes += 1,
            Met::Leaf(_) => {}
        });
        self.messages(table("messages").rows, root("messages"), &mut salvaged);
        salvaged
    }

    fn messages(&self, rows: u64, root: Option<usize>, salvaged: &mut Salvaged) {
        let mut gaps = Gaps::default();
        let messages = &mut salvaged.messages;
        self.walk(root, MESSAGES, &mut |met| match met {
            Met::Row(key, value) => {
                // Those of a page that is another one now are not in order.
                let Some(number) = u64_at(key, 0).filter(|number| *number >= gaps.next) else { return };
                gaps.pass(number);
                if of_row(value).is_some() {
                    messages.insert(number, value.to_vec());
                }
            }
            Met::Hole(depth) => gaps.begin(depth),
            Met::Leaf(depth) => gaps.leaves_at = Some(depth),
        });
        let missing = rows.saturating_sub(messages.len() as u64);
        let hidden = gaps.hidden();
        if missing > 0 && !hidden.is_empty() {
            let found = self.loose_messages(&hidden);
            messages.extend(found.into_iter().rev().take(usize::try_from(missing).unwrap_or(usize::MAX)));
        }
        salvaged.lost = rows.saturating_sub(messages.len() as u64);
    }

    /// Where nothing says where the tables begin: a tree of messages that is part of no other, with the latest message, and of
    /// several with that the smallest: messages have ended since the others.
    fn outbox_without_names(&self) -> Option<Salvaged> {
        let inner: HashSet<usize> =
            self.places().filter_map(|at| self.children(at)).flatten().filter_map(|child| self.place(child)).collect();
        let trees = self.places().filter(|at| !inner.contains(at)).filter_map(|at| {
            let mut salvaged = Salvaged::default();
            self.messages(0, Some(at), &mut salvaged);
            let last = *salvaged.messages.keys().next_back()?;
            Some(((last, Reverse(salvaged.messages.len())), salvaged))
        });
        let (_, mut salvaged) = trees.max_by_key(|(of, _)| *of)?;
        let leaves = self.places().filter_map(|at| Leaf::at(self.file, at, NAMES));
        let meta = leaves.map(|leaf| {
            let rows = leaf.rows().map(|(key, value)| Some((String::from_utf8(key.to_vec()).ok()?, value.to_vec())));
            rows.collect::<Option<BTreeMap<_, _>>>().unwrap_or_default()
        });
        let meta = meta.filter(|meta| meta.contains_key("format"));
        salvaged.meta = meta.max_by_key(|meta| meta.get("opened").cloned())?;
        Some(salvaged)
    }

    /// Messages in leaves to which nothing leads any more, those only that may have been behind a hole. Pages that were given
    /// up hold some that have ended; where two have the same number it is not known which one that is.
    fn loose_messages(&self, hidden: &[(u64, u64)]) -> BTreeMap<u64, Vec<u8>> {
        let mut found = BTreeMap::<u64, Option<Vec<u8>>>::new();
        let leaves = self.places().filter_map(|at| Leaf::at(self.file, at, MESSAGES));
        for leaf in leaves.filter(|leaf| leaf.rows().all(|(_, row)| of_row(row).is_some())) {
            for (key, row) in leaf.rows() {
                let Some(number) = u64_at(key, 0) else { continue };
                if !hidden.iter().any(|(after, before)| (*after..*before).contains(&number)) {
                    continue;
                }
                let known = found.entry(number).or_insert_with(|| Some(row.to_vec()));
                match known {
                    Some(known) if known.get(1..) == row.get(1..) => {
                        // Once released, a message stays so.
                        if row.first() > known.first() {
                            row.clone_into(known);
                        }
                    }
                    _ => *known = None,
                }
            }
        }
        found.into_iter().filter_map(|(number, row)| Some((number, row?))).collect()
    }

    /// Shows all of a tree, in order.
    fn walk(&self, root: Option<usize>, shape: Shape, visit: &mut dyn FnMut(Met<'a>)) {
        let mut open: Vec<_> = root.map(|root| (Some(root), 0)).into_iter().collect();
        // No tree has more pages than the file.
        let mut left = self.file.len() / PAGE + 1;
        while let Some((at, depth)) = open.pop().filter(|_| left > 0) {
            left -= 1;
            if let Some(leaf) = at.and_then(|at| Leaf::at(self.file, at, shape)) {
                visit(Met::Leaf(depth));
                leaf.rows().for_each(|(key, value)| visit(Met::Row(key, value)));
                continue;
            }
            match at.and_then(|at| self.children(at)).filter(|_| depth < DEPTH_MAX) {
                Some(children) => open.extend(children.into_iter().rev().map(|child| (self.place(child), depth + 1))),
                None => visit(Met::Hole(depth)),
            }
        }
    }

    fn children(&self, at: usize) -> Option<Vec<u64>> {
        let page = self.file.get(at..)?;
        let keys = u16_at(page, 2).filter(|keys| page.first() == Some(&IS_BRANCH) && *keys > 0)?;
        let numbers = 8 + 16 * (keys + 1);
        (0..=keys).map(|child| u64_at(page, numbers + 8 * child)).collect()
    }
}

/// Between which numbers there were pages that are none.
#[derive(Default)]
struct Gaps {
    /// The number after the last one that was read.
    next: u64,
    /// The holes since then, by their depth.
    open: Vec<(u64, usize)>,
    closed: Vec<(u64, u64, usize)>,
    leaves_at: Option<usize>,
}

impl Gaps {
    fn begin(&mut self, depth: usize) {
        self.open.push((self.next, depth));
    }

    fn pass(&mut self, number: u64) {
        self.closed.extend(self.open.drain(..).map(|(after, depth)| (after, number, depth)));
        self.next = number.saturating_add(1);
    }

    /// Those behind which there may be leaves that can be read: a hole in the place of a leaf hides nothing else.
    fn hidden(mut self) -> Vec<(u64, u64)> {
        self.pass(u64::MAX);
        let Self { closed, leaves_at, .. } = self;
        let above = closed.into_iter().filter(|(.., depth)| leaves_at.is_none_or(|leaves| *depth < leaves));
        above.map(|(after, before, _)| (after, before)).collect()
    }
}

/// A leaf: the file from its page on, and where in that its rows are.
struct Leaf<'a> {
    page: &'a [u8],
    shape: Shape,
    rows: usize,
    /// Where the keys begin, and the values.
    keys: usize,
    values: usize,
}

impl<'a> Leaf<'a> {
    /// `None`: there is none, or not with rows of this shape.
    fn at(file: &'a [u8], at: usize, shape: Shape) -> Option<Self> {
        let page = file.get(at..).filter(|page| page.first() == Some(&IS_LEAF))?;
        let rows = u16_at(page, 2).filter(|rows| *rows > 0)?;
        let ends = |width: Option<usize>| if width.is_none() { 4 * rows } else { 0 };
        let keys = 4 + ends(shape.key) + ends(shape.value);
        let values = match shape.key {
            Some(width) => keys + width * rows,
            None => u32_at(page, 4 * rows)?,
        };
        let leaf = Self { page, shape, rows, keys, values };
        (leaf.values >= keys && (0..rows).all(|n| leaf.row(n).is_some())).then_some(leaf)
    }

    fn key(&self, n: usize) -> Option<&'a [u8]> {
        let (start, end) = match self.shape.key {
            Some(width) => (self.keys + width * n, self.keys + width * (n + 1)),
            None => (if n == 0 { self.keys } else { u32_at(self.page, 4 * n)? }, u32_at(self.page, 4 + 4 * n)?),
        };
        self.page.get(start..end).filter(|_| end <= self.values)
    }

    fn row(&self, n: usize) -> Option<(&'a [u8], &'a [u8])> {
        let ends = 4 + if self.shape.key.is_none() { 4 * self.rows } else { 0 };
        let (start, end) = match self.shape.value {
            Some(width) => (self.values + width * n, self.values + width * (n + 1)),
            None => {
                let start = if n == 0 { self.values } else { u32_at(self.page, ends + 4 * (n - 1))? };
                (start, u32_at(self.page, ends + 4 * n)?)
            }
        };
        Some((self.key(n)?, self.page.get(start..end).filter(|_| start >= self.values)?))
    }

    fn rows(&self) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        (0..self.rows).filter_map(|n| self.row(n))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Store;
    use super::super::tests::{filled_with, options};
    use super::*;
    use crate::session::journal::Op;

    #[test]
    fn a_new_file_has_the_geometry_that_is_assumed() {
        let file = filled_with(1..=1, &options()).bytes();
        assert_eq!(GEOMETRY_AT.map(|at| u32_at(&file, at).unwrap()), GEOMETRY);
    }

    #[test]
    fn a_whole_file_is_read_as_redb_reads_it() {
        let file = filled_with(1..=3_000, &options()).bytes();
        let salvaged = salvage(&file).unwrap();
        assert_eq!((salvaged.messages.len(), salvaged.lost), (3_000, 0));
        assert!(salvaged.messages.keys().copied().eq(1..=3_000));
        assert_eq!(salvaged.meta["client"], b"device");
    }

    #[test]
    fn what_is_released_is_known() {
        let disk = filled_with(1..=3_000, &options());
        let (mut store, _) = Store::open(Box::new(disk.clone()), &options()).unwrap();
        let ops: Vec<Op> = (1..=3_000).step_by(2).map(|number| Op::Release { number }).collect();
        store.commit(&ops).unwrap();
        let salvaged = salvage(&disk.bytes()).unwrap();
        assert!(salvaged.released.iter().copied().eq((1..=3_000).step_by(2)));
        assert_eq!((salvaged.messages.len(), salvaged.lost, salvaged.holes), (3_000, 0, 0));
    }

    #[test]
    fn nonsense_is_no_outbox_and_does_not_end_it() {
        let file = filled_with(1..=3_000, &options()).bytes();
        let mut seed = 7_u64;
        for _ in 0..60 {
            let mut bytes = file.clone();
            for byte in bytes.iter_mut().step_by(97) {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *byte = if seed >> 62 == 0 { (seed >> 33) as u8 } else { *byte };
            }
            assert!(salvage(&bytes).is_none_or(|salvaged| salvaged.messages.len() <= 3_000));
        }
        assert!(salvage(&[]).is_none() && salvage(&[0; PAGE * 3]).is_none());
    }
}
