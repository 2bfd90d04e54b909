//! Rows as the console sends them.

use wire::message::{backend, put_frame};

/// What a column holds, by PostgreSQL's type OIDs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Type {
    Text,
    Integer,
    Bigint,
    Numeric,
}

impl Type {
    fn oid_and_size(self) -> (u32, i16) {
        match self {
            Type::Text => (25, -1),
            Type::Integer => (23, 4),
            Type::Bigint => (20, 8),
            Type::Numeric => (1700, -1),
        }
    }
}

/// A table: names and types of its columns, and its rows; `None` is NULL.
#[derive(Debug)]
pub struct Table {
    columns: Vec<(String, Type)>,
    rows: Vec<Vec<Option<String>>>,
}

impl Table {
    /// `columns`: names by commas, each with `:i`, `:q` or `:n` behind it for integer, bigint and numeric.
    pub fn new(columns: &str) -> Table {
        let column = |word: &str| match word.split_once(':') {
            Some((name, "i")) => (name.to_owned(), Type::Integer),
            Some((name, "q")) => (name.to_owned(), Type::Bigint),
            Some((name, _)) => (name.to_owned(), Type::Numeric),
            None => (word.to_owned(), Type::Text),
        };
        Table { columns: columns.split(',').map(str::trim).map(column).collect(), rows: Vec::new() }
    }

    /// # Panics
    /// In test builds, when the row has not as many values as there are columns.
    pub fn row(&mut self, values: Vec<Option<String>>) {
        debug_assert_eq!(values.len(), self.columns.len(), "{:?}", self.columns);
        self.rows.push(values);
    }

    /// RowDescription, DataRows and CommandComplete.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut body = (self.columns.len() as u16).to_be_bytes().to_vec();
        for (name, kind) in &self.columns {
            let (oid, size) = kind.oid_and_size();
            body.extend_from_slice(name.as_bytes());
            // No table, no attribute of one, no modifier; as text.
            body.extend_from_slice(&[0; 7]);
            body.extend_from_slice(&oid.to_be_bytes());
            body.extend_from_slice(&size.to_be_bytes());
            body.extend_from_slice(&(-1i32).to_be_bytes());
            body.extend_from_slice(&[0; 2]);
        }
        put_frame(out, backend::ROW_DESCRIPTION, &body);
        for row in &self.rows {
            let mut body = (row.len() as u16).to_be_bytes().to_vec();
            for value in row {
                match value {
                    Some(text) => {
                        body.extend_from_slice(&(text.len() as u32).to_be_bytes());
                        body.extend_from_slice(text.as_bytes());
                    }
                    None => body.extend_from_slice(&(-1i32).to_be_bytes()),
                }
            }
            put_frame(out, backend::DATA_ROW, &body);
        }
        put_frame(out, backend::COMMAND_COMPLETE, b"SHOW\0");
    }
}

/// A row of things that can be shown.
macro_rules! row {
    ($($value:expr),* $(,)?) => { vec![$(Some($value.to_string())),*] };
}
pub(super) use row;
