//! Curves and bars, drawn as SVG. What their figures mean, it does not know.

use std::ops::Range;

use plotters::{
    coord::{
        Shift,
        ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter},
    },
    element::DashedPathElement,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::Result;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// A diagram of lines.
#[derive(Debug)]
pub(crate) struct Chart {
    pub(crate) title: String,
    /// The name of the horizontal axis.
    pub(crate) across: String,
    pub(crate) lines: Vec<Line>,
}

/// A line, through points from left to right.
#[derive(Debug)]
pub(crate) struct Line {
    /// What the legend calls it, if the chart has more than one.
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
    /// The place of its colour and marker.
    pub(crate) hue: usize,
    pub(crate) dashed: bool,
}

/// A column of bars, one for each name, or none where there is no figure.
#[derive(Debug)]
pub(crate) struct Bars {
    pub(crate) title: String,
    /// What else is to be said, in two lines at most.
    pub(crate) subtitle: Vec<String>,
    pub(crate) bars: Vec<Option<Bar>>,
}

#[derive(Debug)]
pub(crate) struct Bar {
    pub(crate) figure: f64,
    /// What stands at its end.
    pub(crate) label: String,
}

/// A picture of charts beside each other.
pub(crate) fn curves(title: &str, charts: &[Chart]) -> Result<String> {
    let mut svg = String::new();
    let below = canvas(&mut svg, CURVES, title)?;
    let areas = below.split_evenly((1, charts.len().max(1)));
    let width = areas.first().map_or(0, |area| area.dim_in_pixel().0.cast_signed()) - LEFT - RIGHT;
    // All leave room for the largest legend, so that their axes are at one height.
    let legend = charts.iter().map(|chart| chart.legend(width).1).max().unwrap_or_default();
    for (area, chart) in areas.iter().zip(charts) {
        chart.draw(area, width, legend)?;
    }
    below.present()?;
    drop((below, areas));
    Ok(svg)
}

/// A picture of columns of bars beside each other; the bars of a row have one name. The first one is what it is about.
pub(crate) fn bars(title: &str, names: &[&str], columns: &[Bars]) -> Result<String> {
    let mut svg = String::new();
    let below = canvas(&mut svg, BARS, title)?;
    let wide = names.iter().map(|name| width_of(name, TEXT)).max().unwrap_or_default() + 2 * GAP;
    let (left, right) = below.split_horizontally(wide);
    let row = |number: usize| ROWS_TOP + ROW * i32::try_from(number).unwrap_or_default();
    for (number, name) in names.iter().enumerate() {
        let style = if number == 0 { bold(TEXT) } else { plain(TEXT) };
        let place = (wide - GAP, row(number) + BAR / 2);
        left.draw(&Text::new(*name, place, style.pos(Pos::new(HPos::Right, VPos::Center))))?;
    }
    let areas = right.split_evenly((1, columns.len().max(1)));
    for (area, column) in areas.iter().zip(columns) {
        area.draw(&Text::new(column.title.as_str(), (0, 0), bold(TEXT)))?;
        for (line, place) in column.subtitle.iter().zip([16, 30]) {
            area.draw(&Text::new(line.as_str(), (0, place), plain(SMALL)))?;
        }
        // From zero, and each with room for its label.
        let room = f64::from(area.dim_in_pixel().0);
        let scales = column.bars.iter().flatten().map(|bar| {
            (room - f64::from(width_of(&bar.label, TEXT) + 2 * GAP)) / bar.figure.max(f64::MIN_POSITIVE)
        });
        let scale = scales.fold(f64::INFINITY, f64::min);
        for (number, bar) in column.bars.iter().enumerate() {
            let (top, middle) = (row(number), row(number) + BAR / 2);
            let end = bar.as_ref().map_or(0, |bar| ((bar.figure * scale).round() as i32).max(1));
            let colour = if number == 0 { HUES[0] } else { OTHERS };
            area.draw(&Rectangle::new([(0, top), (end, top + BAR)], colour.filled()))?;
            let label = bar.as_ref().map_or("–", |bar| &bar.label);
            let style = if number == 0 { bold(TEXT) } else { plain(TEXT) };
            let style = style.pos(Pos::new(HPos::Left, VPos::Center));
            area.draw(&Text::new(label, (end + GAP / 2, middle), style))?;
        }
    }
    below.present()?;
    drop((below, left, right, areas));
    Ok(svg)
}

/// A white picture with a title, and the area below that.
fn canvas<'a>(svg: &'a mut String, size: (u32, u32), title: &str) -> Result<Area<'a>> {
    let root = SVGBackend::with_string(svg, size).into_drawing_area();
    // Pages are dark, too.
    root.fill(&WHITE)?;
    root.draw(&Text::new(title, (GAP, GAP), bold(TITLE)))?;
    Ok(root.margin(40, GAP / 2, GAP, GAP))
}

impl Chart {
    fn draw(&self, area: &Area<'_>, width: i32, legend: i32) -> Result<()> {
        let points = || self.lines.iter().flat_map(|line| line.points.iter().copied());
        let (across, up) = (Axis::through(points().map(|(x, _)| x)), Axis::around(points().map(|(_, y)| y)));
        area.draw(&Text::new(self.title.as_str(), (LEFT, 0), bold(TEXT)))?;
        for (line, (x, y)) in self.lines.iter().zip(self.legend(width).0) {
            let (x, y) = (LEFT + x, LEGEND_TOP + y);
            let sample = [0, SAMPLE / 2, SAMPLE].map(|along| (x + along, y + SMALL / 2));
            line.draw(area, &sample, &sample[1..2])?;
            area.draw(&Text::new(line.name.as_str(), (x + SAMPLE + GAP / 2, y), plain(SMALL)))?;
        }
        let mut chart = ChartBuilder::on(area)
            .margin_top(LEGEND_TOP + legend + GAP)
            .margin_right(RIGHT)
            .x_label_area_size(44)
            .y_label_area_size(LEFT)
            .build_cartesian_2d(across, up)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(RULES)
            .light_line_style(TRANSPARENT)
            .axis_style(INK)
            .label_style(plain(SMALL))
            .axis_desc_style(plain(SMALL))
            .x_desc(self.across.as_str())
            .draw()?;
        let (left, top) = area.get_base_pixel();
        for line in &self.lines {
            let places = line.points.iter().map(|point| {
                let (x, y) = chart.backend_coord(point);
                (x - left, y - top)
            });
            let places: Vec<_> = places.collect();
            line.draw(area, &places, &places)?;
        }
        Ok(())
    }

    /// Where the lines' names are, from the legend's corner on, and how high it is.
    fn legend(&self, width: i32) -> (Vec<(i32, i32)>, i32) {
        if self.lines.len() < 2 {
            return (Vec::new(), 0);
        }
        let widest = self.lines.iter().map(|line| width_of(&line.name, SMALL)).max().unwrap_or_default();
        let column = SAMPLE + widest + 3 * GAP;
        // One beside the other as far as there is room; four are better as two and two than as three and one.
        let mut columns = usize::try_from(width / column).unwrap_or(1).clamp(1, self.lines.len());
        if columns < self.lines.len() {
            columns = self.lines.len().div_ceil(self.lines.len().div_ceil(columns));
        }
        let at = |number: usize| i32::try_from(number).unwrap_or_default();
        let places = (0..self.lines.len())
            .map(|number| (column * at(number % columns), LEGEND_ROW * at(number / columns)))
            .collect();
        (places, LEGEND_ROW * at(self.lines.len().div_ceil(columns)))
    }
}

impl Line {
    /// Through these points of an area, and with markers at those. Where colours are not seen, markers tell lines apart.
    fn draw(&self, area: &Area<'_>, points: &[(i32, i32)], marked: &[(i32, i32)]) -> Result<()> {
        let place = self.hue % HUES.len();
        let colour = HUES[place];
        let path = colour.stroke_width(2);
        match self.dashed {
            true => area.draw(&DashedPathElement::new(points.iter().copied(), 6, 4, path))?,
            false => area.draw(&PathElement::new(points, path))?,
        }
        for &(x, y) in marked {
            // Those of a dashed line are hollow.
            let fills = [colour, if self.dashed { WHITE } else { colour }];
            for (fill, size) in fills.into_iter().zip([MARKER, MARKER - 2]) {
                match place {
                    0 => area.draw(&Circle::new((x, y), size, fill.filled()))?,
                    _ => {
                        let corners = [(x - size, y - size), (x + size, y + size)];
                        area.draw(&Rectangle::new(corners, fill.filled()))?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// An axis: logarithmic if its figures span more than a decade, else linear and from zero.
#[derive(Debug, PartialEq)]
struct Axis {
    is_log: bool,
    /// Where it is labelled, from its beginning to its end.
    ticks: Vec<f64>,
    /// What is left free at both ends, as a share of its length.
    margin: f64,
}

impl Axis {
    /// One with ticks at round figures, from below the least to above the most.
    fn around(figures: impl Iterator<Item = f64> + Clone) -> Self {
        let (least, most) = (figures.clone().fold(f64::INFINITY, f64::min), figures.fold(0.0, f64::max));
        let is_log = is_wide(least, most);
        let ticks = if is_log {
            // All steps of many decades would be too many.
            let steps: &[f64] = if most / least < 1e3 { &[1.0, 2.0, 5.0] } else { &[1.0] };
            let decades = least.log10().floor() as i32..=most.log10().ceil() as i32;
            let all = decades.flat_map(|decade| steps.iter().map(move |step| step * 10_f64.powi(decade)));
            let all: Vec<_> = all.collect();
            let from = all.iter().rposition(|&tick| tick <= least).unwrap_or_default();
            let to = all.iter().position(|&tick| tick >= most).unwrap_or(all.len() - 1);
            all[from..=to].to_vec()
        } else {
            let fifth = if most > 0.0 { most / 5.0 } else { 0.2 };
            let decade = 10_f64.powf(fifth.log10().floor());
            let steps = [1.0, 2.0, 5.0].map(|step| step * decade);
            let step = steps.into_iter().find(|&step| step >= fifth).unwrap_or(10.0 * decade);
            (0..=(most.max(step) / step).ceil() as i32).map(|count| f64::from(count) * step).collect()
        };
        Self { is_log, ticks, margin: 0.0 }
    }

    /// One with a tick at each of the figures.
    fn through(figures: impl Iterator<Item = f64>) -> Self {
        let mut ticks: Vec<_> = figures.collect();
        ticks.sort_by(f64::total_cmp);
        ticks.dedup();
        let (least, most) =
            (ticks.first().copied().unwrap_or_default(), ticks.last().copied().unwrap_or_default());
        Self { is_log: is_wide(least, most), ticks, margin: 0.04 }
    }

    /// Where a figure is on it, in units of its own.
    fn place(&self, figure: f64) -> f64 {
        if self.is_log { figure.log10() } else { figure }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn range(&self) -> Range<f64> {
        self.ticks.first().copied().unwrap_or_default()..self.ticks.last().copied().unwrap_or_default()
    }

    fn map(&self, figure: &f64, (first, last): (i32, i32)) -> i32 {
        let Range { start, end } = self.range();
        let length = self.place(end) - self.place(start);
        // A single figure is in the middle.
        let share = if length > 0.0 { (self.place(*figure) - self.place(start)) / length } else { 0.5 };
        first + (f64::from(last - first) * (self.margin + share * (1.0 - 2.0 * self.margin))).round() as i32
    }

    fn key_points<H: KeyPointHint>(&self, hint: H) -> Vec<f64> {
        // Without finer ones in between.
        if hint.weight().allow_light_points() { Vec::new() } else { self.ticks.clone() }
    }
}

impl ValueFormatter<f64> for Axis {
    fn format(figure: &f64) -> String {
        let (figure, thousands) = if *figure < 1e3 { (*figure, "") } else { (figure / 1e3, "k") };
        let digits = format!("{figure:.3}");
        format!("{}{thousands}", digits.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// Whether figures span more than a decade, and have logarithms.
fn is_wide(least: f64, most: f64) -> bool {
    least > 0.0 && most > 10.0 * least
}

fn plain<'a>(pixels: i32) -> TextStyle<'a> {
    font(pixels, FontStyle::Normal).color(&INK)
}

fn bold<'a>(pixels: i32) -> TextStyle<'a> {
    font(pixels, FontStyle::Bold).color(&INK)
}

/// A font whose letters are so high in the picture: the SVG backend divides.
fn font<'a>(pixels: i32, style: FontStyle) -> FontDesc<'a> {
    FontDesc::new(FontFamily::SansSerif, f64::from(pixels) * 1.24, style)
}

/// How wide a text is, about, in a wide font: which one a reader has is not known.
fn width_of(text: &str, pixels: i32) -> i32 {
    i32::try_from(text.chars().count()).unwrap_or_default() * pixels * 14 / 25
}

/// Width and height of pictures: those that are embedded in a page are shown as they are.
const CURVES: (u32, u32) = (820, 420);
const BARS: (u32, u32) = (820, 300);

/// Sizes of text.
const TITLE: i32 = 16;
const TEXT: i32 = 13;
const SMALL: i32 = 12;

/// Between what stands beside each other.
const GAP: i32 = 10;

/// Of a chart, what is left free for its labels, and beyond its last one.
const LEFT: i32 = 44;
const RIGHT: i32 = 14;

/// Where the legend begins, how high its rows are, and how long a piece of a line it shows.
const LEGEND_TOP: i32 = 22;
const LEGEND_ROW: i32 = 18;
const SAMPLE: i32 = 30;

const MARKER: i32 = 4;

/// Where bars begin, how far they are from one another, and how high they are.
const ROWS_TOP: i32 = 56;
const ROW: i32 = 38;
const BAR: i32 = 24;

const INK: RGBColor = RGBColor(0x24, 0x29, 0x2f);
const RULES: RGBColor = RGBColor(0xdd, 0xdd, 0xdd);

/// A dark one and a light one, so that they differ in grey as well.
const HUES: [RGBColor; 2] = [RGBColor(0x1f, 0x4e, 0x79), RGBColor(0xe6, 0x9f, 0x00)];

/// The bars of what others cost.
const OTHERS: RGBColor = RGBColor(0xb4, 0xbc, 0xc6);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_begins_and_ends_at_round_figures() {
        for (figures, is_log, expected) in [
            (&[165.0, 327.0][..], false, &[0.0, 100.0, 200.0, 300.0, 400.0][..]),
            (&[1.1, 5.6], false, &[0.0, 2.0, 4.0, 6.0]),
            (&[5.0], false, &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
            (&[0.0], false, &[0.0, 0.2]),
            (&[], false, &[0.0, 0.2]),
            (&[0.0, 1000.0], false, &[0.0, 200.0, 400.0, 600.0, 800.0, 1000.0]),
            (&[15.0, 163.0], true, &[10.0, 20.0, 50.0, 100.0, 200.0]),
            (&[3.0, 40_000.0], true, &[1.0, 10.0, 100.0, 1000.0, 10_000.0, 100_000.0]),
        ] {
            let axis = Axis::around(figures.iter().copied());
            assert_eq!((axis.is_log, axis.ticks.as_slice()), (is_log, expected), "{figures:?}");
        }
    }

    #[test]
    fn figures_have_their_place_on_an_axis() {
        let places = |axis: &Axis, figures: &[f64]| -> Vec<_> {
            figures.iter().map(|figure| axis.map(figure, (0, 100))).collect()
        };
        assert_eq!(places(&Axis::around([4.0, 10.0].into_iter()), &[0.0, 5.0, 10.0]), [0, 50, 100]);
        assert_eq!(places(&Axis::around([1.0, 100.0].into_iter()), &[1.0, 10.0, 100.0]), [0, 50, 100]);
        assert_eq!(places(&Axis::through([1.0, 100.0].into_iter()), &[1.0, 10.0, 100.0]), [4, 50, 96]);
        assert_eq!(places(&Axis::through([7.0].into_iter()), &[7.0]), [50]);
    }

    #[test]
    fn a_label_is_short() {
        for (figure, expected) in [
            (0.0, "0"),
            (0.25, "0.25"),
            (20.0, "20"),
            (999.0, "999"),
            (1000.0, "1k"),
            (2500.0, "2.5k"),
            (100_000.0, "100k"),
        ] {
            assert_eq!(Axis::format(&figure), expected);
        }
    }
}
