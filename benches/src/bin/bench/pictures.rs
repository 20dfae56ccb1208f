//! Which pictures are made of which tables. The tables are those that the benchmarks print, in whatever Markdown they stand: they are
//! known by what is in their headings, and their columns by what their names begin with.

use std::{fs, path::Path};

use crate::{
    Result,
    peers::Peer,
    plot::{self, Bar, Bars, Chart, Line},
    table::{Table, figure},
};

/// Curves of the rows of one table.
struct Curves {
    file: &'static str,
    /// What is in the table's heading.
    heading: &'static str,
    /// The column whose figures go from left to right, and what the axis is called.
    across: (&'static str, &'static str),
    /// The column whose words tell rows apart: each word has lines of its own.
    by: Option<&'static str>,
    charts: &'static [Lines],
}

/// The lines of a chart.
struct Lines {
    title: &'static str,
    /// Their columns, and what they are called.
    columns: &'static [(&'static str, &'static str)],
}

const LATENCY: Lines = Lines { title: "a turn takes", columns: &[("turn p50", "p50"), ("p99", "p99")] };

const CURVES: [Curves; 5] = [
    Curves {
        file: "bench-streams.svg",
        heading: "Streams at once",
        across: ("streams", "streams at once"),
        by: None,
        charts: &[
            Lines { title: "CPU a turn", columns: &[("CPU a turn", "")] },
            LATENCY,
            Lines { title: "most memory", columns: &[("most memory", "")] },
        ],
    },
    Curves {
        file: "bench-sessions.svg",
        heading: "Sessions at rest",
        across: ("sessions", "sessions at rest"),
        by: None,
        charts: &[
            Lines {
                title: "CPU",
                columns: &[("CPU a turn", "a turn meanwhile"), ("CPU to create", "to create one")],
            },
            LATENCY,
            Lines { title: "memory", columns: &[("memory", "")] },
        ],
    },
    Curves {
        file: "bench-clis.svg",
        heading: "CLIs: ",
        across: ("CLIs", "CLIs"),
        by: None,
        charts: &[
            Lines { title: "CPU a turn", columns: &[("CPU a turn", "")] },
            LATENCY,
            Lines { title: "memory", columns: &[("memory", "")] },
        ],
    },
    Curves {
        file: "bench-turns.svg",
        heading: "(`curve`)",
        across: ("at once", "turns at once"),
        by: Some("CLI"),
        charts: &[Lines { title: "turns/s", columns: &[("turns/s", "")] }, LATENCY],
    },
    Curves {
        file: "bench-share.svg",
        heading: "(`curve`)",
        across: ("at once", "turns at once"),
        by: Some("CLI"),
        charts: &[
            Lines {
                title: "CPU a turn",
                columns: &[("CPU a turn, the CLI", "CLI"), ("the service", "service")],
            },
            Lines { title: "the service's share, %", columns: &[("its share", "")] },
        ],
    },
];

/// The picture with the service's peers.
const PEERS: &str = "bench-peers.svg";

/// Those that it shows.
const SHOWN: [Peer; 5] = [Peer::Facade, Peer::Raw, Peer::RustSdk, Peer::Node, Peer::Bare];

/// What is in the headings of its tables, and their columns.
const COSTS: [(&str, &str); 3] = [
    ("Turns at full speed", "CPU a turn"),
    ("Short streams at full speed", "CPU a turn"),
    ("Long streams at full speed", "CPU a delta"),
];

/// Draws what there is of a text's tables, each picture as a file in the folder.
pub(crate) fn draw(text: &str, folder: &Path) -> Result<()> {
    let tables = Table::read(text);
    let curves = CURVES.iter().map(|curves| (curves.file, curves.svg(&tables)));
    fs::create_dir_all(folder)?;
    for (file, svg) in curves.chain([(PEERS, peers(&tables))]) {
        match svg? {
            Some(svg) => {
                let file = folder.join(file);
                fs::write(&file, svg)?;
                println!("{}", file.display());
            }
            None => eprintln!("{file}: there is no table for it"),
        }
    }
    Ok(())
}

impl Curves {
    /// The picture, if there is a table with something to show.
    fn svg(&self, tables: &[Table]) -> Result<Option<String>> {
        let with_heading = tables.iter().filter(|table| table.title().contains(self.heading));
        let mut drawn = with_heading.map(|table| (table.title(), self.charts(table)));
        let Some((title, charts)) = drawn.find(|(_, charts)| !charts.is_empty()) else { return Ok(None) };
        // Which part of the benchmarks printed it is of no interest here.
        plot::curves(title.split(" (`").next().unwrap_or(title), &charts).map(Some)
    }

    /// Those for which the table has columns.
    fn charts(&self, table: &Table) -> Vec<Chart> {
        let Some(across) = table.column(self.across.0) else { return Vec::new() };
        let words: Vec<_> = match self.by.and_then(|by| table.column(by)) {
            Some(by) => table.cells(by).collect(),
            None => table.cells(across).map(|_| "").collect(),
        };
        let mut groups = words.clone();
        groups.sort_unstable();
        groups.dedup();
        let charts = self.charts.iter().map(|Lines { title, columns }| {
            let columns: Vec<_> =
                columns.iter().filter_map(|(column, name)| Some((table.column(column)?, *name))).collect();
            let lines = groups.iter().enumerate().flat_map(|(hue, group)| {
                let (columns, words) = (&columns, &words);
                columns.iter().enumerate().map(move |(place, (column, name))| {
                    let rows = words.iter().zip(table.cells(across)).zip(table.cells(*column));
                    let rows = rows.filter(|((word, _), _)| *word == group);
                    let points = rows.filter_map(|((_, x), y)| Some((figure(x)?, figure(y)?)));
                    let names = [*group, *name].into_iter().filter(|name| !name.is_empty());
                    let name = names.collect::<Vec<_>>().join(", ");
                    Line { name, points: points.collect(), hue, dashed: place > 0 }
                })
            });
            let lines = lines.filter(|line| !line.points.is_empty()).collect();
            let unit = columns.first().and_then(|(column, _)| table.unit(*column));
            let title = unit.map_or_else(|| (*title).into(), |unit| format!("{title}, {unit}"));
            Chart { title, across: self.across.1.into(), lines }
        });
        charts.filter(|chart| !chart.lines.is_empty()).collect()
    }
}

/// What a turn and a delta cost in CPU time with each peer.
fn peers(tables: &[Table]) -> Result<Option<String>> {
    let columns: Vec<_> = COSTS
        .iter()
        .filter_map(|(heading, column)| {
            let table = tables.iter().find(|table| table.title().contains(heading))?;
            cost(table, column)
        })
        .collect();
    let names = SHOWN.map(Peer::name);
    let picture = || plot::bars("CPU time of copilot-grpc and its peers", &names, &columns);
    (!columns.is_empty()).then(picture).transpose()
}

/// The bars of a table, if it has this column and some of the peers.
fn cost(table: &Table, column: &str) -> Option<Bars> {
    let (names, column) = (table.column("process")?, table.column(column)?);
    // Who loses some of the work does less.
    let lost = table.column("lost deltas").or_else(|| table.column("failed turns"));
    let bars = SHOWN.map(|peer| {
        let row = table.cells(names).position(|name| name == peer.name())?;
        let label = table.cells(column).nth(row)?;
        let lost = lost.and_then(|lost| table.cells(lost).nth(row));
        let lost = lost.filter(|lost| figure(lost).is_some_and(|lost| lost > 0.0));
        let figure = figure(label)?;
        Some(Bar {
            figure,
            label: lost.map_or_else(|| label.into(), |lost| format!("{label} ({lost} lost)")),
        })
    });
    bars.iter().any(Option::is_some).then(|| {
        let load = table.title().split_once(": ").map_or("", |(_, load)| load);
        let subtitle = load.splitn(2, ", ").map(str::to_owned).collect();
        Bars { title: table.name(column).into(), subtitle, bars: bars.into() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SCENARIOS;

    fn curves(file: &str, table: &str) -> Vec<Chart> {
        let curves = CURVES.iter().find(|curves| curves.file == file).unwrap();
        curves.charts(&Table::read(table)[0])
    }

    #[test]
    fn each_form_of_the_cli_has_lines_of_its_own() {
        let table = "\
| CLI    | CLIs | at once | turns/s | turn p50, ms | p99, ms |
|--------|-----:|--------:|--------:|-------------:|--------:|
| native |    1 |       1 |      23 |           48 |      96 |
| node   |    1 |       1 |      16 |           63 |     110 |
| native |    1 |     128 |      79 |         1566 |       - |
";
        let charts = curves("bench-turns.svg", table);
        let titles: Vec<_> = charts.iter().map(|chart| chart.title.as_str()).collect();
        assert_eq!(titles, ["turns/s", "a turn takes, ms"]);
        let lines: Vec<_> = charts[1]
            .lines
            .iter()
            .map(|line| (line.name.as_str(), line.hue, line.dashed, line.points.as_slice()))
            .collect();
        assert_eq!(
            lines,
            [
                ("native, p50", 0, false, &[(1.0, 48.0), (128.0, 1566.0)][..]),
                ("native, p99", 0, true, &[(1.0, 96.0)]),
                ("node, p50", 1, false, &[(1.0, 63.0)]),
                ("node, p99", 1, true, &[(1.0, 110.0)]),
            ]
        );
    }

    #[test]
    fn a_chart_whose_columns_a_table_has_not_is_left_out() {
        let table = "| streams | CPU a turn, µs | most memory, MB |\n|---|---|---|\n| 1 | 327 | 21 |";
        let charts = curves("bench-streams.svg", table);
        let titles: Vec<_> = charts.iter().map(|chart| chart.title.as_str()).collect();
        assert_eq!(titles, ["CPU a turn, µs", "most memory, MB"]);
        assert!(curves("bench-clis.svg", table).is_empty());
    }

    #[test]
    fn a_bar_says_what_was_lost() {
        let table = "\
## Long streams at full speed: SendAndStream, 16 at once, 10000 deltas

| process           | CPU a delta, µs | failed turns | lost deltas |
|-------------------|----------------:|-------------:|------------:|
| copilot-grpc      |            3.33 |            0 |           0 |
| Rust SDK, no gRPC |           19.54 |       25.0 % |      51.9 % |
";
        let bars = cost(&Table::read(table)[0], "CPU a delta").unwrap();
        assert_eq!(bars.title, "CPU a delta, µs");
        assert_eq!(bars.subtitle, ["SendAndStream", "16 at once, 10000 deltas"]);
        let bars: Vec<_> =
            bars.bars.iter().map(|bar| bar.as_ref().map(|bar| (bar.figure, &*bar.label))).collect();
        assert_eq!(bars, [Some((3.33, "3.33")), None, Some((19.54, "19.54 (51.9 % lost)")), None, None]);
    }

    #[test]
    fn what_the_peers_are_known_by_is_what_is_printed() {
        for (heading, _) in COSTS {
            assert!(SCENARIOS.iter().any(|scenario| scenario.title.contains(heading)), "{heading}");
        }
    }

    #[test]
    fn the_page_has_a_table_for_every_picture() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operate/benchmarks.md");
        let tables = Table::read(&fs::read_to_string(page).unwrap());
        for curves in &CURVES {
            assert!(curves.svg(&tables).unwrap().is_some(), "{}", curves.file);
        }
        assert!(peers(&tables).unwrap().is_some());
    }
}
