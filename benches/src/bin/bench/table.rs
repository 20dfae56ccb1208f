//! Tables as Markdown has them, and medians.

/// A table.
#[derive(Debug)]
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
        println!("### {}\n", self.title);
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
        println!("{}", line(&self.head));
        let rules = (0..self.head.len()).map(|column| match column {
            0 => "-".repeat(width(column) + 2),
            _ => format!("{}:", "-".repeat(width(column) + 1)),
        });
        println!("|{}|", rules.collect::<Vec<_>>().join("|"));
        self.rows.iter().for_each(|row| println!("{}", line(row)));
        println!();
    }
}

/// The one in the middle; not a number if there is none.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
