//! A small plot: several lines over one axis, the values on a logarithmic one, so that different units fit.

use crate::svg::{COLOURS, GREY, GRID, INK, Svg};

/// A line with its name.
#[derive(Clone, Debug)]
pub struct Line {
    /// Beside the lines, in its colour.
    pub name: &'static str,
    /// Where along the axis, and the value, above zero.
    pub points: Vec<(f64, f64)>,
}

/// How the axis below divides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// From zero.
    Linear,
    /// By decades; its values are above zero.
    Logarithmic,
}

/// Fewer points than these are marked one by one.
const MARKED_POINTS: usize = 12;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 230.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;

/// The plot as SVG. `along` names what the lines go along, which `scale` divides.
pub fn svg(title: &str, along: &str, scale: Scale, lines: &[Line]) -> String {
    let all = || lines.iter().flat_map(|line| line.points.iter());
    let across = Axis::over(scale, all().map(|point| point.0), LEFT, WIDTH - RIGHT);
    let up = Axis::over(Scale::Logarithmic, all().map(|point| point.1), HEIGHT - BOTTOM, TOP);
    let mut svg = Svg::new(WIDTH, HEIGHT);
    svg.sized_text((LEFT, 22.0), "start", INK, 14.0, title);
    for value in across.marks() {
        let x = across.at(value);
        svg.line([x, TOP, x, HEIGHT - BOTTOM], GRID);
        svg.text((x, HEIGHT - BOTTOM + 18.0), "middle", GREY, &number(value));
    }
    for value in up.marks() {
        let y = up.at(value);
        svg.line([LEFT, y, WIDTH - RIGHT, y], GRID);
        svg.text((LEFT - 8.0, y + 4.0), "end", GREY, &number(value));
    }
    svg.text((f64::midpoint(LEFT, WIDTH - RIGHT), HEIGHT - 12.0), "middle", INK, along);
    for (number, (line, colour)) in lines.iter().zip(COLOURS.iter().cycle()).enumerate() {
        let points: Vec<(f64, f64)> = line.points.iter().map(|point| (across.at(point.0), up.at(point.1))).collect();
        svg.polyline(&points, colour, 2.0);
        for point in points.iter().filter(|_| points.len() < MARKED_POINTS) {
            svg.dot(*point, 3.5, colour);
        }
        let (x, y) = (WIDTH - RIGHT + 16.0, TOP + 14.0 + 22.0 * number as f64);
        svg.dot((x, y - 4.0), 4.0, colour);
        svg.text((x + 12.0, y), "start", colour, line.name);
    }
    svg.finish()
}

/// An axis: from zero, or over whole decades.
struct Axis {
    scale: Scale,
    /// Of the values, or of their exponents.
    first: f64,
    last: f64,
    from: f64,
    to: f64,
}

impl Axis {
    fn over(scale: Scale, values: impl Iterator<Item = f64>, from: f64, to: f64) -> Self {
        let (lowest, highest) = values
            .fold((f64::MAX, f64::MIN_POSITIVE), |(lowest, highest), value| (lowest.min(value), highest.max(value)));
        let (first, last) = match scale {
            Scale::Linear => (0.0, highest),
            Scale::Logarithmic => {
                let first = lowest.min(highest).log10().floor();
                (first, highest.log10().ceil().max(first + 1.0))
            }
        };
        Self { scale, first, last, from, to }
    }

    fn at(&self, value: f64) -> f64 {
        let value = if self.scale == Scale::Linear { value } else { value.log10() };
        self.from + (value - self.first) / (self.last - self.first) * (self.to - self.from)
    }

    /// Where lines and numbers stand.
    fn marks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => {
                let rough = self.last / 5.0;
                let decade = 10f64.powf(rough.log10().floor());
                let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * decade).into_iter().find(|step| *step >= rough);
                let step = step.unwrap_or(rough);
                (0..=(self.last / step + 0.001) as usize).map(|number| number as f64 * step).collect()
            }
            Scale::Logarithmic => {
                let (first, last) = (self.first as i32, self.last as i32);
                (first..=last).map(|exponent| 10f64.powi(exponent)).collect()
            }
        }
    }
}

fn number(value: f64) -> String {
    if value >= 1000.0 { format!("{},000", value / 1000.0) } else { format!("{value}") }
}
