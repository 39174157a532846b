//! Plots as inline SVG. Colours are CSS variables of the page, so that one picture serves light and dark.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Small enough that text stays legible on a phone, where the picture is scaled to the width of the screen.
const SIZE: (u32, u32) = (480, 300);
/// Series that have a colour of their own; more of them share.
pub(super) const COLOURS: usize = 6;
const INK: RGBColor = RGBColor(1, 1, 1);
const GRID: RGBColor = RGBColor(2, 2, 2);

/// A line of a plot.
pub(super) struct Series {
    /// For the legend; several lines of one name have one entry.
    pub(super) name: String,
    /// Which of the page's colours.
    pub(super) colour: usize,
    pub(super) points: Vec<(f64, f64)>,
}

/// A plot with linear axes from 0.
pub(super) struct Plot<'a> {
    pub(super) x: &'a str,
    pub(super) y: &'a str,
    pub(super) series: Vec<Series>,
    /// A dashed line at this height, with its meaning.
    pub(super) limit: Option<(f64, &'a str)>,
}

impl Plot<'_> {
    /// The picture, or `None` when there is nothing to draw.
    pub(super) fn svg(&self) -> Result<Option<String>> {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let Some(x_max) = points().map(|point| point.0).max_by(f64::total_cmp) else { return Ok(None) };
        let highest = points().map(|point| point.1).fold(0.0, f64::max);
        // A limit far above everything would press the lines flat: then the page says it in words only.
        let limit = self.limit.filter(|(limit, _)| *limit <= highest * 4.0);
        let y_max = limit.map_or(highest, |(limit, _)| highest.max(limit)) * 1.08;
        let y_max = if y_max > 0.0 { y_max } else { 1.0 };
        let mut svg = String::new();
        {
            let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
            self.draw(&root, x_max.max(1.0) * 1.04, y_max, limit)
                .map_err(|error| anyhow!("plot {}: {error}", self.y))?;
            root.present().map_err(|error| anyhow!("plot {}: {error}", self.y))?;
        }
        Ok(Some(themed(&svg)))
    }

    fn draw(
        &self,
        root: &DrawingArea<SVGBackend<'_>, Shift>,
        x_max: f64,
        y_max: f64,
        limit: Option<(f64, &str)>,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let text = ("sans-serif", 13).into_font().color(&INK);
        let mut chart = ChartBuilder::on(root)
            .margin(6)
            .margin_right(14)
            .x_label_area_size(38)
            .y_label_area_size(58)
            .build_cartesian_2d(0.0..x_max, 0.0..y_max)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .axis_style(INK)
            .x_labels(7)
            .y_labels(6)
            .x_label_formatter(&|at| label(*at))
            .y_label_formatter(&|at| label(*at))
            .x_desc(self.x)
            .y_desc(self.y)
            .label_style(text.clone())
            .axis_desc_style(text.clone())
            .draw()?;
        for series in &self.series {
            let colour = placeholder(series.colour);
            chart.draw_series(LineSeries::new(series.points.iter().copied(), colour.stroke_width(2)))?;
            chart.draw_series(series.points.iter().map(|point| Circle::new(*point, 3, colour.filled())))?;
        }
        if let Some((height, name)) = limit {
            let line = [(0.0, height), (x_max, height)];
            chart.draw_series(DashedLineSeries::new(line, 6, 4, INK.stroke_width(1)))?;
            let style = text.pos(Pos::new(HPos::Left, VPos::Bottom));
            chart.draw_series(std::iter::once(Text::new(name.to_owned(), (x_max * 0.02, height), style)))?;
        }
        Ok(())
    }
}

/// Three decimals at most, none that are 0.
fn label(figure: f64) -> String {
    let text = format!("{figure:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Stands in the drawing for one of the page's colours.
fn placeholder(colour: usize) -> RGBColor {
    RGBColor(3, 3, (colour % COLOURS) as u8)
}

/// Placeholders become the page's variables, and the size becomes the page's to choose.
fn themed(svg: &str) -> String {
    let mut svg = svg.replacen(&format!("width=\"{}\" height=\"{}\" ", SIZE.0, SIZE.1), "", 1);
    svg = svg.replace("#010101", "var(--ink)").replace("#020202", "var(--grid)");
    for colour in 0..COLOURS {
        svg = svg.replace(&format!("#0303{colour:02X}"), &format!("var(--s{colour})"));
    }
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(points: &[(f64, f64)]) -> Series {
        Series { name: "weir".into(), colour: 1, points: points.to_vec() }
    }

    #[test]
    fn a_plot_without_points_is_left_out() {
        let plot = Plot { x: "sessions", y: "CPU", series: vec![series(&[])], limit: Some((1.0, "full")) };
        assert_eq!(plot.svg().expect("nothing to fail"), None);
    }

    #[test]
    fn colours_and_size_are_the_pages() {
        let plot = Plot {
            x: "sessions",
            y: "CPU",
            series: vec![series(&[(1.0, 2.0), (4.0, 3.0)])],
            limit: Some((4.0, "full")),
        };
        let svg = plot.svg().expect("drawn").expect("points");
        assert!(svg.contains("var(--s1)") && svg.contains("var(--ink)") && svg.contains("full"), "{svg}");
        assert!(!svg.contains("#0303") && !svg.contains("width=\"480\""), "{svg}");
        assert!(svg.contains("viewBox"), "{svg}");
    }

    #[test]
    fn labels_have_no_empty_decimals() {
        for (figure, text) in [(0.0, "0"), (20.0, "20"), (0.25, "0.25"), (0.1 + 0.2, "0.3"), (100.0, "100")] {
            assert_eq!(label(figure), text);
        }
    }

    #[test]
    fn a_limit_far_above_is_not_drawn() {
        let plot = Plot {
            x: "sessions",
            y: "loss",
            series: vec![series(&[(1.0, 0.0), (2.0, 0.01)])],
            limit: Some((0.5, "limit")),
        };
        assert!(!plot.svg().expect("drawn").expect("points").contains("limit"));
    }
}
