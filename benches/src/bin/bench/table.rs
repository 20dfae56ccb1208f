//! Tables as Markdown has them, written and read, and medians.

use std::fmt;

/// A table, and the heading that it stands below.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Table {
    title: String,
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(title: impl Into<String>, columns: &[&str]) -> Self {
        let head = columns.iter().map(|&column| column.to_owned()).collect();
        Self { title: title.into(), head, rows: Vec::new() }
    }

    pub(crate) fn columns(&mut self, columns: &[&str]) {
        self.head.extend(columns.iter().map(|&column| column.to_owned()));
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub(crate) fn print(&self) {
        println!("{self}");
    }

    /// All tables of a text, in its order. What else the text says is passed over.
    pub(crate) fn read(text: &str) -> Vec<Self> {
        let (mut tables, mut title, mut fenced) = (Vec::new(), "", false);
        let mut lines = text.lines().map(str::trim).peekable();
        while let Some(line) = lines.next() {
            // A comment of a shell begins as a heading does.
            fenced ^= line.starts_with("```");
            if fenced {
                continue;
            }
            if line.starts_with('#') {
                title = line.trim_start_matches('#').trim();
            }
            if cells(line).is_some() && lines.next_if(|line| is_rule(line)).is_some() {
                let mut table =
                    Self { title: title.into(), head: cells(line).unwrap_or_default(), rows: vec![] };
                while let Some(row) = lines.peek().and_then(|line| cells(line)) {
                    table.row(row);
                    lines.next();
                }
                tables.push(table);
            }
        }
        tables
    }

    pub(crate) fn title(&self) -> &str {
        &self.title
    }

    /// The place of the first column whose name begins like this: behind it there may be a unit.
    pub(crate) fn column(&self, name: &str) -> Option<usize> {
        self.head.iter().position(|head| head.starts_with(name))
    }

    pub(crate) fn name(&self, column: usize) -> &str {
        self.head.get(column).map_or("", String::as_str)
    }

    /// What a column's figures are in: behind the last comma of its name.
    pub(crate) fn unit(&self, column: usize) -> Option<&str> {
        Some(self.name(column).rsplit_once(", ")?.1)
    }

    /// The cells of a column, from top to bottom.
    pub(crate) fn cells(&self, column: usize) -> impl Iterator<Item = &str> {
        self.rows.iter().map(move |row| row.get(column).map_or("", String::as_str))
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "### {}\n", self.title)?;
        let width = |column: usize| {
            let cells = self.rows.iter().chain([&self.head]).filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        let line = |row: &Vec<String>| {
            let cells = row.iter().enumerate().map(|(column, cell)| match column {
                0 => format!(" {cell:<0$} ", width(column)),
                _ => format!(" {cell:>0$} ", width(column)),
            });
            format!("|{}|", cells.collect::<Vec<_>>().join("|"))
        };
        writeln!(f, "{}", line(&self.head))?;
        let rules = (0..self.head.len()).map(|column| match column {
            0 => "-".repeat(width(column) + 2),
            _ => format!("{}:", "-".repeat(width(column) + 1)),
        });
        writeln!(f, "|{}|", rules.collect::<Vec<_>>().join("|"))?;
        self.rows.iter().try_for_each(|row| writeln!(f, "{}", line(row)))
    }
}

/// The cells of a line, if it is one of a table.
fn cells(line: &str) -> Option<Vec<String>> {
    let inner = line.strip_prefix('|')?.strip_suffix('|')?;
    Some(inner.split('|').map(|cell| cell.trim().to_owned()).collect())
}

/// Whether a line is the one between a table's head and its rows.
fn is_rule(line: &str) -> bool {
    line.contains('-') && line.chars().all(|character| "|-: ".contains(character))
}

/// The figure of a cell, without what follows it: `12.9x`, `4.7 %` and `64,620` are figures, `-` and `none` are not.
pub(crate) fn figure(cell: &str) -> Option<f64> {
    let is_behind = |character: char| !character.is_ascii_digit() && !"+-.,".contains(character);
    let figure = cell.split(is_behind).next()?.replace(',', "");
    figure.parse().ok()
}

/// The one in the middle; not a number if there is none.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read_again() {
        let mut one = Table::new("CLIs: 64 streams at once", &["CLIs", "CPU a turn, µs"]);
        one.row(vec!["1".into(), "165".into()]);
        one.row(vec!["64".into(), "1540".into()]);
        let mut other = Table::new("Memory", &["", "KiB"]);
        other.row(vec!["a session at rest".into(), "1.8".into()]);
        assert_eq!(Table::read(&format!("{one}\n{other}")), [one, other]);
    }

    #[test]
    fn a_table_belongs_to_the_heading_above_it() {
        let text = "\
# Benchmarks

| what | is |
|---|---:|
| a turn | 0.12 ms |

## Results

### Streams at once

Some words, and a | that is none.

```sh
# a comment
| not | a table |
|-----|---------|
```

| streams | CPU |
|:--------|----:|
| 1       | 327 |
| 10      | 175 |
More words.

| streams | memory |
|---------|-------:|
";
        let tables = Table::read(text);
        let titles: Vec<_> = tables.iter().map(|table| (table.title(), table.rows.len())).collect();
        assert_eq!(titles, [("Benchmarks", 1), ("Streams at once", 2), ("Streams at once", 0)]);
        assert_eq!(tables[1].cells(1).collect::<Vec<_>>(), ["327", "175"]);
    }

    #[test]
    fn a_column_is_known_by_what_its_name_begins_with() {
        let table =
            Table::new("", &["CLI", "CLIs", "CPU a turn, the CLIs, ms", "its share", "p99, ms", "p99, µs"]);
        let unit = |name: &str| table.unit(table.column(name)?);
        assert_eq!(table.column("CLI"), Some(0));
        assert_eq!(table.column("CPU a turn, the CLI"), Some(2));
        assert_eq!(unit("CPU a turn, the CLI"), Some("ms"));
        assert_eq!(unit("p99"), Some("ms"));
        assert_eq!(unit("its share"), None);
        assert_eq!(table.column("turns/s"), None);
    }

    #[test]
    fn cells_that_a_row_has_not_are_empty() {
        let tables = Table::read("| a | b |\n|---|---|\n| 1 |");
        assert_eq!(tables[0].cells(1).collect::<Vec<_>>(), [""]);
    }

    #[test]
    fn a_figure_is_read_without_its_unit() {
        for (cell, expected) in [
            ("327", Some(327.0)),
            ("0.47", Some(0.47)),
            ("12.9x", Some(12.9)),
            ("4.7 %", Some(4.7)),
            ("15.9 MB", Some(15.9)),
            ("64,620", Some(64620.0)),
            ("-143000", Some(-143_000.0)),
            ("0", Some(0.0)),
            ("", None),
            ("-", None),
            ("NaN", None),
            ("none", None),
        ] {
            assert_eq!(figure(cell), expected, "{cell:?}");
        }
    }
}
