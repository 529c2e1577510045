//! Symbolic axis lengths: products of a number and symbols.
//!
//! Every length that is not a product is interned under the expression that computes it. Two lengths that are computed in the
//! same way from the same inputs are therefore equal.

use std::collections::HashMap;

/// A symbol: an index into [`SymbolTable`].
type Atom = u32;

/// The number of rows in a batch.
const BATCH: Atom = 0;

/// Maximum number of symbols in one product. A longer product becomes a symbol.
const MAX_ATOMS: usize = 12;

/// An axis length, or an element of an integer tensor that holds lengths: a number times symbols.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dim {
    factor: i64,
    /// In ascending order.
    atoms: Vec<Atom>,
}

impl Dim {
    /// A number.
    pub const fn number(factor: i64) -> Self {
        Self { factor, atoms: Vec::new() }
    }

    /// The number of rows in a batch.
    pub fn batch() -> Self {
        Self { factor: 1, atoms: vec![BATCH] }
    }

    /// The number, if there are no symbols.
    pub fn as_number(&self) -> Option<i64> {
        self.atoms.is_empty().then_some(self.factor)
    }

    pub fn is(&self, number: i64) -> bool {
        self.as_number() == Some(number)
    }

    /// Whether the batch size is one of the factors.
    pub fn contains_batch(&self) -> bool {
        self.atoms.first() == Some(&BATCH)
    }

    /// The product, unless it overflows or has too many symbols.
    pub fn times(&self, other: &Self) -> Option<Self> {
        let factor = self.factor.checked_mul(other.factor)?;
        if factor == 0 {
            return Some(Self::number(0));
        }
        let mut atoms = [&self.atoms[..], &other.atoms].concat();
        atoms.sort_unstable();
        (atoms.len() <= MAX_ATOMS).then_some(Self { factor, atoms })
    }

    /// The exact quotient, if it is a product as well.
    pub fn over(&self, other: &Self) -> Option<Self> {
        let factor = (self.factor.checked_rem(other.factor)? == 0).then(|| self.factor.checked_div(other.factor))??;
        let mut atoms = self.atoms.clone();
        for atom in &other.atoms {
            let index = atoms.iter().position(|each| each == atom)?;
            atoms.remove(index);
        }
        Some(Self { factor, atoms })
    }

    /// The product of several lengths.
    pub fn product<'a>(dims: impl IntoIterator<Item = &'a Self>) -> Option<Self> {
        dims.into_iter().try_fold(Self::number(1), |product, dim| product.times(dim))
    }
}

/// Definition of a symbol.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Source {
    Batch,
    /// An open axis of an input.
    Named(String),
    /// A function of other lengths.
    Computed(&'static str, Vec<Dim>),
    /// An unknown number.
    Fresh(u32),
}

#[derive(Clone, Debug)]
struct Symbol {
    source: Source,
    /// Whether it changes with the batch size.
    depends_on_batch_size: bool,
    is_negative: Option<bool>,
}

/// Interned symbols.
#[derive(Debug)]
pub struct SymbolTable {
    all: Vec<Symbol>,
    by_source: HashMap<Source, Atom>,
}

impl SymbolTable {
    pub fn new() -> Self {
        let mut symbols = Self { all: Vec::new(), by_source: HashMap::new() };
        symbols.intern(Symbol { source: Source::Batch, depends_on_batch_size: true, is_negative: Some(false) });
        symbols
    }

    fn intern(&mut self, symbol: Symbol) -> Dim {
        let next = u32::try_from(self.all.len()).unwrap_or(u32::MAX);
        let atom = *self.by_source.entry(symbol.source.clone()).or_insert(next);
        if atom == next {
            self.all.push(symbol);
        }
        Dim { factor: 1, atoms: vec![atom] }
    }

    /// The length of an open axis.
    pub fn named(&mut self, name: String) -> Dim {
        self.intern(Symbol { source: Source::Named(name), depends_on_batch_size: false, is_negative: Some(false) })
    }

    /// An unknown number.
    pub fn fresh(&mut self, depends_on_batch_size: bool) -> Dim {
        let source = Source::Fresh(u32::try_from(self.all.len()).unwrap_or(u32::MAX));
        self.intern(Symbol { source, depends_on_batch_size, is_negative: None })
    }

    /// A function of other lengths. The name identifies the function.
    pub fn computed(&mut self, name: &'static str, of: &[&Dim]) -> Dim {
        let depends_on_batch_size = of.iter().any(|dim| self.depends_on_batch_size(dim));
        let source = Source::Computed(name, of.iter().map(|&dim| dim.clone()).collect());
        let is_negative = matches!(name, "window" | "broadcast").then_some(false);
        self.intern(Symbol { source, depends_on_batch_size, is_negative })
    }

    pub fn depends_on_batch_size(&self, dim: &Dim) -> bool {
        dim.atoms.iter().any(|&atom| self.all[atom as usize].depends_on_batch_size)
    }

    pub fn times(&mut self, a: &Dim, b: &Dim) -> Dim {
        a.times(b).unwrap_or_else(|| self.computed("product", &[a, b]))
    }

    pub fn product<'a>(&mut self, dims: impl IntoIterator<Item = &'a Dim>) -> Dim {
        dims.into_iter().fold(Dim::number(1), |product, dim| self.times(&product, dim))
    }

    pub fn sum(&mut self, a: &Dim, b: &Dim) -> Dim {
        let (a, b) = if a <= b { (a, b) } else { (b, a) };
        if a.is(0) {
            return b.clone();
        }
        if b.is(0) {
            return a.clone();
        }
        match a.factor.checked_add(b.factor) {
            Some(0) if a.atoms == b.atoms => Dim::number(0),
            Some(factor) if a.atoms == b.atoms => Dim { factor, atoms: a.atoms.clone() },
            _ => self.computed("sum", &[a, b]),
        }
    }

    /// The exact quotient, or else a symbol for the rounded quotient.
    pub fn quotient(&mut self, a: &Dim, b: &Dim) -> Dim {
        a.over(b).unwrap_or_else(|| self.computed("quotient", &[a, b]))
    }

    /// Whether two lengths are equal, if that is certain. Axis lengths and the batch size are never negative.
    pub fn are_equal(&self, a: &Dim, b: &Dim) -> Option<bool> {
        if a == b {
            return Some(true);
        }
        if let (Some(a), Some(b)) = (a.as_number(), b.as_number()) {
            return Some(a == b);
        }
        let sign = |dim: &Dim| {
            let is_length = dim.atoms.iter().all(|&atom| self.all[atom as usize].is_negative == Some(false));
            is_length.then_some(dim.factor < 0)
        };
        // A length may be zero, so only negative numbers certainly differ from it.
        match (sign(a), sign(b)) {
            (Some(false), Some(true)) if b.as_number().is_some() => Some(false),
            (Some(true), Some(false)) if a.as_number().is_some() => Some(false),
            _ => None,
        }
    }

    /// The smaller of a constant axis and a length: the length of a slice of a table that ends at `length`.
    pub fn shorter(&mut self, constant: &Dim, length: &Dim) -> Dim {
        self.computed("shorter", &[constant, length])
    }

    /// The length of an axis after broadcasting.
    pub fn broadcast(&mut self, a: &Dim, b: &Dim) -> Dim {
        if a == b || b.is(1) {
            return a.clone();
        }
        if a.is(1) || b.as_number().is_some() {
            return b.clone();
        }
        // For a number other than 1, the other axis has the same length or length 1.
        if a.as_number().is_some() {
            return a.clone();
        }
        // ONNX Runtime rejects a table that is shorter than the other axis, unless it has one element.
        if self.is_shorter_of(a, b) {
            return b.clone();
        }
        if self.is_shorter_of(b, a) {
            return a.clone();
        }
        let (a, b) = if a <= b { (a, b) } else { (b, a) };
        self.computed("broadcast", &[a, b])
    }

    fn is_shorter_of(&self, dim: &Dim, length: &Dim) -> bool {
        let [atom] = dim.atoms[..] else { return false };
        let Source::Computed("shorter", of) = &self.all[atom as usize].source else { return false };
        dim.factor == 1 && of[1] == *length && !of[0].is(1)
    }
}
