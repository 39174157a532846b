//! The rows as an SVG picture: average load between its limits, total load, nodes by status.
#![forbid(unsafe_code)]

use std::fmt::Write as _;

use super::output::{clock, decimals};
use super::{Outcome, Row, Scenario};

const WIDTH: f64 = 960.0;
const LEFT: f64 = 70.0;
const PLOT_WIDTH: f64 = 860.0;
const PLOT_HEIGHT: f64 = 170.0;
const TOP: f64 = 50.0;
/// From the top of one plot to that of the next.
const PITCH: f64 = 230.0;
/// More rows than this are thinned out: there are no more pixels.
const POINTS_MAX: usize = 2000;

/// Status, colour, and its number in a row.
type Layer = (&'static str, &'static str, fn(&Row) -> usize);
const LAYERS: [Layer; 5] = [
    ("running", "#2e7d32", |row| row.running),
    ("launching", "#1e88e5", |row| row.launching),
    ("waiting-idle-to-terminate", "#fb8c00", |row| row.waiting),
    ("canceled", "#8e24aa", |row| row.canceled),
    ("terminating", "#c62828", |row| row.terminating),
];

/// The picture as the text of an SVG file.
pub fn svg(scenario: &Scenario, outcome: &Outcome) -> String {
    let every = outcome.rows.len().div_ceil(POINTS_MAX).max(1);
    let rows: Vec<&Row> = outcome.rows.iter().step_by(every).collect();
    let end_s = scenario.duration_s.max(1) as f64;
    let height = TOP + 3.0 * PITCH;
    let mut picture = Picture { text: String::new(), end_s };
    picture.text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"16\">{}</text>\n",
        escaped(&scenario.title)
    );
    picture.average(scenario, &rows);
    picture.total(&rows);
    picture.nodes(&rows);
    picture.text.push_str("</svg>\n");
    picture.text
}

struct Picture {
    text: String,
    end_s: f64,
}

/// One plot: where it begins, and the value at its upper edge.
#[derive(Clone, Copy)]
struct Plot {
    top: f64,
    max: f64,
}

impl Plot {
    fn y(self, value: f64) -> f64 {
        self.top + PLOT_HEIGHT * (1.0 - value / self.max)
    }
}

impl Picture {
    fn average(&mut self, scenario: &Scenario, rows: &[&Row]) {
        let plot = self.frame(0, "average load, percent", rows.iter().map(|row| row.avg_load), 100.0);
        let limits = scenario.limits.map(|limits| [limits.max_avg_load, limits.min_avg_load]);
        for limit in limits.into_iter().flatten() {
            let (y, right) = (plot.y(limit), LEFT + PLOT_WIDTH);
            self.put(&format!(
                "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\" stroke=\"#c62828\" stroke-dasharray=\"6 4\"/>"
            ));
        }
        self.line(plot, "#1565c0", rows.iter().map(|row| (row.time_s, row.avg_load)));
    }

    fn total(&mut self, rows: &[&Row]) {
        let plot =
            self.frame(1, "total load, percent of one node", rows.iter().map(|row| row.total_load), 100.0);
        self.line(plot, "#455a64", rows.iter().map(|row| (row.time_s, row.total_load)));
    }

    /// Areas on top of each other.
    fn nodes(&mut self, rows: &[&Row]) {
        let all = |row: &Row| LAYERS.iter().map(|layer| layer.2(row)).sum::<usize>() as f64;
        let plot = self.frame(2, "nodes by status", rows.iter().map(|row| all(row)), 2.0);
        for (number, (name, colour, _)) in LAYERS.iter().enumerate() {
            let up_to = |row: &Row, count: usize| {
                LAYERS[..count].iter().map(|layer| layer.2(row)).sum::<usize>() as f64
            };
            let upper = self.steps(plot, rows.iter().map(|row| (row.time_s, up_to(row, number + 1))));
            let lower = self.steps(plot, rows.iter().map(|row| (row.time_s, up_to(row, number))));
            let points: Vec<_> = upper.into_iter().chain(lower.into_iter().rev()).collect();
            self.put(&format!(
                "<polygon points=\"{}\" fill=\"{colour}\" fill-opacity=\"0.8\"/>",
                points.join(" ")
            ));
            let (x, y) = (LEFT + 165.0 * number as f64 + 110.0, plot.top - 8.0);
            self.put(&format!("<text x=\"{x}\" y=\"{y}\" fill=\"{colour}\">{name}</text>"));
        }
    }

    /// Axes, heading and scale of a plot.
    fn frame(&mut self, number: usize, name: &str, values: impl Iterator<Item = f64>, least: f64) -> Plot {
        let plot = Plot { top: TOP + PITCH * number as f64 + 10.0, max: values.fold(least, f64::max) };
        let (bottom, heading) = (plot.top + PLOT_HEIGHT, plot.top - 8.0);
        self.put(&format!(
            "<rect x=\"{LEFT}\" y=\"{}\" width=\"{PLOT_WIDTH}\" height=\"{PLOT_HEIGHT}\" fill=\"none\" stroke=\"#b0bec5\"/>",
            plot.top
        ));
        self.put(&format!("<text x=\"{LEFT}\" y=\"{heading}\">{name}</text>"));
        for quarter in 0..=4 {
            let part = f64::from(quarter) / 4.0;
            let (value, y) = (plot.max * part, plot.y(plot.max * part) + 4.0);
            let x = LEFT - 6.0;
            let label = decimals((value * 100.0).round() / 100.0);
            self.put(&format!("<text x=\"{x}\" y=\"{y:.1}\" text-anchor=\"end\">{label}</text>"));
            let (x, y, time) = (LEFT + PLOT_WIDTH * part, bottom + 16.0, clock((self.end_s * part) as u64));
            self.put(&format!("<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{time}</text>"));
        }
        plot
    }

    fn line(&mut self, plot: Plot, colour: &str, values: impl Iterator<Item = (u64, f64)>) {
        let points = self.steps(plot, values).join(" ");
        self.put(&format!(
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>"
        ));
    }

    /// Corners of a staircase: a value holds until the next row.
    fn steps(&self, plot: Plot, values: impl Iterator<Item = (u64, f64)>) -> Vec<String> {
        let mut points: Vec<String> = Vec::new();
        let mut last_y = None;
        for (time_s, value) in values {
            let (x, y) = (LEFT + PLOT_WIDTH * time_s as f64 / self.end_s, plot.y(value));
            if let Some(last) = last_y.filter(|last| *last != y) {
                points.push(format!("{x:.1},{last:.1}"));
            }
            points.push(format!("{x:.1},{y:.1}"));
            last_y = Some(y);
        }
        points
    }

    fn put(&mut self, element: &str) {
        writeln!(self.text, "{element}").expect("a string takes all");
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
