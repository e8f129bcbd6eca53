//! One cell of the matrix: at which write, and what happens there. And the table of all of them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde_json::{Value, json};

/// What happens at the write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum How {
    /// The operator dies instead of sending it.
    Before,
    /// The server acts, the operator lives on and never learns of it.
    Lost,
    /// The operator dies once the server has answered.
    After,
}

impl How {
    pub const ALL: [Self; 3] = [Self::Before, Self::Lost, Self::After];

    fn word(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::Lost => "lost",
            Self::After => "after",
        }
    }

    fn fault(self) -> Value {
        match self {
            Self::Before => json!({"fault": "abort-before"}),
            Self::Lost => json!({"fault": "drop-answer"}),
            Self::After => json!({"fault": "abort-after"}),
        }
    }
}

/// A place in an operation's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cell {
    /// Counted from 1 since the operation was asked for.
    pub write: usize,
    pub how: How,
}

impl Cell {
    /// Every cell of an operation of so many writes.
    pub fn all(writes: usize) -> Vec<Self> {
        (1..=writes).flat_map(|write| How::ALL.map(|how| Self { write, how })).collect()
    }

    /// One for each way of failing, spread over the whole operation.
    pub fn sample(writes: usize) -> Vec<Self> {
        let ways = [How::After, How::Before, How::Lost];
        let count = ways.len();
        let at = |n: usize| (1 + n * writes.saturating_sub(1) / count + writes / (2 * count)).clamp(1, writes.max(1));
        ways.into_iter().enumerate().map(|(n, how)| Self { write: at(n), how }).collect()
    }

    /// The rules that make it so.
    pub fn rules(self) -> Value {
        json!([{"name": self.to_string(), "match": {"write": true}, "at": self.write, "do": self.how.fault()}])
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.write, self.how.word())
    }
}

impl FromStr for Cell {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (write, how) = text.split_once(':').ok_or_else(|| format!("{text}: not WRITE:before|lost|after"))?;
        let write = write.parse().map_err(|_| format!("{text}: no number"))?;
        let how =
            How::ALL.into_iter().find(|known| known.word() == how).ok_or_else(|| format!("{text}: no such way"))?;
        Ok(Self { write, how })
    }
}

/// How a cell came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The end is the clean run's; what was struck.
    Same(String),
    /// The run ended before it came to that write.
    NotReached,
    /// What differs, or what did not come to an end.
    Differs(String),
}

/// The cells of one operation.
#[derive(Debug, Default)]
pub struct Table {
    pub operation: &'static str,
    pub writes: Vec<String>,
    pub cells: BTreeMap<Cell, Outcome>,
}

impl Table {
    pub fn failed(&self) -> Vec<(&Cell, &str)> {
        let failed = self.cells.iter().filter_map(|(cell, outcome)| match outcome {
            Outcome::Differs(why) => Some((cell, why.as_str())),
            Outcome::Same(_) | Outcome::NotReached => None,
        });
        failed.collect()
    }

    /// How many cells were struck and came to the clean run's end all the same.
    pub fn same(&self) -> usize {
        self.count(|outcome| matches!(outcome, Outcome::Same(_)))
    }

    fn count(&self, is: impl Fn(&Outcome) -> bool) -> usize {
        self.cells.values().filter(|outcome| is(outcome)).count()
    }

    /// For `docs/reliability.md` and whoever reads results by program.
    pub fn summary(&self) -> Value {
        json!({"operation": self.operation, "writes": self.writes.len(), "cells": self.cells.len(),
            "same": self.same(),
            "notReached": self.count(|outcome| *outcome == Outcome::NotReached),
            "failed": self.failed().iter().map(|(cell, why)| json!({"cell": cell.to_string(), "why": why})).collect::<Vec<_>>()})
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {} writes, {} cells", self.operation, self.writes.len(), self.cells.len())?;
        for (index, write) in self.writes.iter().enumerate() {
            let marks = How::ALL.map(|how| match self.cells.get(&Cell { write: index + 1, how }) {
                None => "     .",
                Some(Outcome::Same(_)) => "    ok",
                Some(Outcome::NotReached) => "  none",
                Some(Outcome::Differs(_)) => "FAILED",
            });
            writeln!(f, "  {:>3}  {}  {write}", index + 1, marks.join(" "))?;
        }
        for (cell, outcome) in self.cells.iter().filter(|(cell, _)| cell.write > self.writes.len()) {
            writeln!(f, "  {cell}: {outcome:?}")?;
        }
        for (cell, why) in self.failed() {
            writeln!(f, "  {}:{cell} FAILED: {why}", self.operation)?;
            writeln!(
                f,
                "    alone: OPENBAO_MATRIX_CELLS={cell} cargo test --workspace --test cluster -- --ignored --exact matrix::whole::{}",
                self.operation
            )?;
        }
        Ok(())
    }
}

#[test]
fn cells_are_written_as_they_are_read_and_a_sample_lies_inside_and_has_every_way_of_failing() {
    for cell in Cell::all(3) {
        assert_eq!(cell.to_string().parse(), Ok(cell));
    }
    assert!("7:sideways".parse::<Cell>().is_err() && "before".parse::<Cell>().is_err());
    for writes in [1, 2, 7, 40] {
        let sample = Cell::sample(writes);
        assert!(sample.iter().all(|cell| (1..=writes).contains(&cell.write)), "{sample:?}");
        assert!(How::ALL.iter().all(|how| sample.iter().any(|cell| cell.how == *how)), "{sample:?}");
    }
}
