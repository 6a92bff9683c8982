//! Reads redb's pages without redb: for a file whose trees are broken, where redb finds nothing any more. A page that holds
//! rows (a leaf) says so itself, and each of our rows says by its checksum which table and key it belongs to.
//!
//! The layout is that of redb's file format 3 (its `docs/design.md`):
//!
//! ```text
//! leaf    1, 0, u16 rows | ends of the keys, u32 each, where keys have no fixed width | ends of the rows, u32 each | keys | rows
//! branch  2, 0, u16 keys | u32 | checksums of the children, 16 bytes each, keys + 1 | their page numbers, u64 each | keys
//! number  bits 0-19 index, in units of the page's size | bits 20-39 region | bits 59-63 order: 4 KiB times 2^order
//! ```

use ::redb::StorageBackend;

use super::medium::Backend;

pub(super) const PAGE: usize = 4096;
/// A leaf is not larger: the largest row, and a little.
const LEAF_BYTES_MAX: usize = 320 * 1024 * 1024;
const IS_LEAF: u8 = 1;
const IS_BRANCH: u8 = 2;
/// Deeper trees are nonsense.
const DEPTH_MAX: u32 = 12;

/// How the keys of a table lie in its leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    Fixed(usize),
    Any,
}

impl Width {
    pub(super) const ALL: [Self; 3] = [Self::Fixed(8), Self::Fixed(16), Self::Any];
}

/// A damaged file, read by places.
pub(super) struct Pages<'a> {
    old: &'a Backend,
    len: u64,
    header_bytes: u64,
    region_bytes: u64,
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

impl<'a> Pages<'a> {
    /// `head` is the beginning of the file, made readable.
    pub(super) fn new(old: &'a Backend, head: &[u8]) -> Option<Self> {
        let pages = |at| u32_at(head, at).map(|pages| pages as u64);
        let (header, data) = (pages(16)?, pages(20)?);
        let page = PAGE as u64;
        Some(Self {
            old,
            len: old.len().ok()?,
            header_bytes: header.checked_mul(page)?,
            region_bytes: header.checked_add(data)?.checked_mul(page)?,
        })
    }

    fn place(&self, number: u64) -> Option<u64> {
        let order = number >> 59;
        let index = number & (0x000f_ffff >> order);
        let region = (number >> 20) & 0x000f_ffff;
        let at = region.checked_mul(self.region_bytes)?.checked_add(index.checked_mul((PAGE as u64) << order)?)?;
        at.checked_add(PAGE as u64)?.checked_add(self.header_bytes)
    }

    /// Bytes from a place on, as many of them as there are.
    fn read(&self, at: u64, len: usize) -> Option<Vec<u8>> {
        let there = usize::try_from(self.len.checked_sub(at)?).unwrap_or(usize::MAX).min(len);
        let mut bytes = vec![0; there];
        self.old.read(at, &mut bytes).ok()?;
        Some(bytes)
    }

    /// The leaf at a place, whole; `None` when there is none, or not with keys of this width.
    fn leaf(&self, at: u64, first: &[u8], width: Width) -> Option<Leaf> {
        let end = Leaf::end(first, width, |len| self.read(at, len))?;
        let bytes = if end <= first.len() { first.get(..end)?.to_vec() } else { self.read(at, end)? };
        Leaf::parse(bytes, width)
    }

    /// Shows every row in everything that looks like a leaf, whether it belongs to a tree or did once. `visit` says whether it
    /// is one of ours: then what that leaf holds is not looked at again.
    pub(super) fn scan(&self, mut visit: impl FnMut(Width, &[u8], &[u8]) -> bool) {
        let mut at = 0;
        while at < self.len {
            let mut pages = 1;
            if let Some(first) = self.read(at, PAGE).filter(|first| first.first() == Some(&IS_LEAF)) {
                for width in Width::ALL {
                    let Some(leaf) = self.leaf(at, &first, width) else { continue };
                    let mut ours = false;
                    leaf.rows(|key, row| ours |= visit(width, key, row));
                    if ours {
                        pages = leaf.bytes.len().div_ceil(PAGE);
                        break;
                    }
                }
            }
            at += (pages * PAGE) as u64;
        }
    }

    /// Shows every row of the tree below a page. False: some of it could not be read.
    pub(super) fn walk(&self, root: u64, width: Width, visit: &mut impl FnMut(&[u8], &[u8])) -> bool {
        let mut open = vec![(root, 0)];
        let mut whole = true;
        // No tree has more pages than the file.
        let mut left = self.len / PAGE as u64 + 1;
        while let Some((number, depth)) = open.pop() {
            let children = self.node(number, width, visit);
            left = left.saturating_sub(1);
            match children {
                Some(children) if depth < DEPTH_MAX && left > 0 => {
                    open.extend(children.into_iter().rev().map(|child| (child, depth + 1)));
                }
                _ => whole = false,
            }
        }
        whole
    }

    /// Rows of a leaf, shown, or the children of a branch.
    fn node(&self, number: u64, width: Width, visit: &mut impl FnMut(&[u8], &[u8])) -> Option<Vec<u64>> {
        let at = self.place(number)?;
        let first = self.read(at, PAGE << (number >> 59).min(4))?;
        if first.first() == Some(&IS_LEAF) {
            self.leaf(at, &first, width)?.rows(visit);
            return Some(Vec::new());
        }
        let keys = u16_at(&first, 2).filter(|keys| first.first() == Some(&IS_BRANCH) && *keys > 0)?;
        let numbers = 8 + 16 * (keys + 1);
        (0..=keys).map(|child| u64_at(&first, numbers + 8 * child)).collect()
    }

    /// Roots of tables, by their names, in each page that looks as if it said where they are.
    pub(super) fn catalogues(&self) -> Vec<Vec<(String, u64)>> {
        let mut found = Vec::new();
        let mut at = 0;
        while at < self.len {
            let first = self.read(at, PAGE).filter(|first| first.first() == Some(&IS_LEAF));
            if let Some(leaf) = first.and_then(|first| self.leaf(at, &first, Width::Any)) {
                let mut roots = Vec::new();
                leaf.rows(|name, definition| {
                    roots.extend(
                        root_of(definition).and_then(|root| Some((String::from_utf8(name.to_vec()).ok()?, root))),
                    );
                });
                if roots.iter().any(|(name, _)| name == "meta") {
                    found.push(roots);
                }
            }
            at += PAGE as u64;
        }
        found
    }
}

/// Where a table's tree begins, out of what redb says of the table: its kind, its rows, whether there are any, the root.
fn root_of(definition: &[u8]) -> Option<u64> {
    const NORMAL: u8 = 3;
    let is_table = definition.first() == Some(&NORMAL) && definition.get(9) == Some(&1);
    u64_at(definition, 10).filter(|_| is_table)
}

/// A leaf, its bytes and where in them the rows are.
struct Leaf {
    bytes: Vec<u8>,
    rows: usize,
    width: Width,
}

impl Leaf {
    /// Where the ends of the rows begin, and the keys.
    fn sections(rows: usize, width: Width) -> (usize, usize) {
        let ends = if width == Width::Any { 4 + 4 * rows } else { 4 };
        (ends, ends + 4 * rows)
    }

    /// How long it is, if it may be one.
    fn end(first: &[u8], width: Width, read: impl FnOnce(usize) -> Option<Vec<u8>>) -> Option<usize> {
        let rows = u16_at(first, 2).filter(|rows| *rows > 0)?;
        let (ends, keys) = Self::sections(rows, width);
        let end = if keys <= first.len() {
            u32_at(first, ends + 4 * (rows - 1))
        } else {
            u32_at(&read(keys)?, ends + 4 * (rows - 1))
        }?;
        (keys..LEAF_BYTES_MAX).contains(&end).then_some(end)
    }

    fn parse(bytes: Vec<u8>, width: Width) -> Option<Self> {
        let rows = u16_at(&bytes, 2)?;
        let leaf = Self { bytes, rows, width };
        let mut before = leaf.key(0)?.0;
        for n in 0..rows {
            let (start, end) = leaf.key(n)?;
            (start == before && end >= start).then_some(())?;
            before = end;
        }
        for n in 0..rows {
            let (start, end) = leaf.row(n)?;
            (start == before && end >= start && end <= leaf.bytes.len()).then_some(())?;
            before = end;
        }
        Some(leaf)
    }

    fn key(&self, n: usize) -> Option<(usize, usize)> {
        let keys = Self::sections(self.rows, self.width).1;
        match self.width {
            Width::Fixed(width) => Some((keys + width * n, keys + width * (n + 1))),
            Width::Any => {
                let start = if n == 0 { keys } else { u32_at(&self.bytes, 4 * n)? };
                Some((start, u32_at(&self.bytes, 4 + 4 * n)?))
            }
        }
    }

    fn row(&self, n: usize) -> Option<(usize, usize)> {
        let ends = Self::sections(self.rows, self.width).0;
        let start = if n == 0 { self.key(self.rows - 1)?.1 } else { u32_at(&self.bytes, ends + 4 * (n - 1))? };
        Some((start, u32_at(&self.bytes, ends + 4 * n)?))
    }

    fn rows(&self, mut visit: impl FnMut(&[u8], &[u8])) {
        for n in 0..self.rows {
            let (Some((a, b)), Some((c, d))) = (self.key(n), self.row(n)) else { return };
            if let (Some(key), Some(row)) = (self.bytes.get(a..b), self.bytes.get(c..d)) {
                visit(key, row);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeMap;
    use std::sync::Arc;

    use ::redb::backends::InMemoryBackend;
    use ::redb::{Builder, TableDefinition};

    use super::super::shared_memory::SharedMemory;
    use super::*;

    const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
    const PAIRS: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("pairs");
    const TEXTS: TableDefinition<'_, (u64, &str), &[u8]> = TableDefinition::new("texts");

    /// Small rows, large ones, and as many as make a tree of several levels; as redb writes them.
    fn file() -> (Backend, Vec<u8>) {
        let memory = Arc::new(InMemoryBackend::new());
        let database = Builder::new().create_with_backend(SharedMemory(Arc::clone(&memory))).unwrap();
        for round in 0..3 {
            let txn = database.begin_write().unwrap();
            txn.open_table(META).unwrap().insert("mark", [round; 9].as_slice()).unwrap();
            for n in 0..300_u64 {
                let row = vec![n as u8; if n.is_multiple_of(50) { 60_000 } else { 100 }];
                txn.open_table(PAIRS).unwrap().insert((n, n + 1), row.as_slice()).unwrap();
                txn.open_table(TEXTS).unwrap().insert((n, format!("{n}").as_str()), row.as_slice()).unwrap();
            }
            txn.commit().unwrap();
        }
        drop(database);
        let mut head = vec![0; 64];
        memory.read(0, &mut head).unwrap();
        (Backend::new(SharedMemory(memory)), head)
    }

    #[test]
    fn trees_are_read_without_redb_and_leaves_without_trees() {
        let (backend, head) = file();
        let pages = Pages::new(&backend, &head).unwrap();
        let widths = [("meta", Width::Any), ("pairs", Width::Fixed(16)), ("texts", Width::Any)];
        let of = |roots: BTreeMap<String, u64>| {
            let mut read = BTreeMap::new();
            let whole = widths.iter().all(|(name, width)| {
                pages.walk(roots[*name], *width, &mut |key, row| {
                    read.insert((*name, key.to_vec()), row.to_vec());
                })
            });
            // Of older ones pages may have been used again.
            whole.then_some(read).filter(|read| read.values().any(|row| *row == [2; 9]))
        };
        let all = pages.catalogues().into_iter().map(|roots| roots.into_iter().collect::<BTreeMap<_, _>>());
        let read = all.filter(|roots| roots.len() == 3).find_map(of).unwrap();
        assert_eq!(read.len(), 601);
        assert!(read.values().all(|row| row.iter().all(|byte| *byte == row[0])));
        let mut found = BTreeMap::<usize, u64>::new();
        pages.scan(|width, key, row| {
            let of = widths
                .iter()
                .find(|(name, of)| *of == width && read.get(&(*name, key.to_vec())).is_some_and(|known| known == row));
            *found.entry(row.len()).or_default() += u64::from(of.is_some());
            of.is_some()
        });
        assert!(found[&100] >= 588 && found[&60_000] >= 12, "{found:?}");
    }

    #[test]
    fn nonsense_is_no_tree_and_does_not_end_it() {
        let (backend, head) = file();
        let mut bytes = vec![0; backend.len().unwrap() as usize];
        backend.read(0, &mut bytes).unwrap();
        let mut seed = 7_u64;
        for _ in 0..40 {
            let memory = InMemoryBackend::new();
            for byte in bytes.iter_mut().skip(4096).step_by(97) {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *byte = if seed >> 62 == 0 { (seed >> 33) as u8 } else { *byte };
            }
            memory.set_len(bytes.len() as u64).unwrap();
            memory.write(0, &bytes).unwrap();
            let backend = Backend::new(memory);
            let pages = Pages::new(&backend, &head).unwrap();
            for root in pages.catalogues().into_iter().flatten().map(|(_, root)| root).chain([seed, u64::MAX, 0]) {
                for width in Width::ALL {
                    pages.walk(root, width, &mut |_, _| {});
                }
            }
            pages.scan(|_, _, _| false);
        }
    }
}
