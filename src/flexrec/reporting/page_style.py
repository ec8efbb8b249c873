"""Style and script of the report page."""

STYLE = """
:root { --ink: #1d2126; --soft: #5b6570; --paper: #ffffff; --card: #f6f7f9; --line: #d9dde2; --link: #0b5cad; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7eaee; --soft: #a4adb8; --paper: #14171c; --card: #1d2127; --line: #363d46; --link: #7ab8f5; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
header, main { max-width: 1140px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 32px; }
h1 { font-size: 28px; line-height: 1.25; margin: 0 0 4px; }
h2 { font-size: 21px; margin: 44px 0 12px; padding-bottom: 6px; border-bottom: 1px solid var(--line); }
h3 { font-size: 17px; margin: 24px 0 0; }
h4 { font-size: 15px; margin: 18px 0 6px; }
header p, figcaption, small { color: var(--soft); }
p { margin: 6px 0 12px; max-width: 80ch; overflow-wrap: anywhere; }
li { max-width: 80ch; margin-bottom: 4px; overflow-wrap: anywhere; }
a { color: var(--link); }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 15px; }
#summary p { font-size: 17px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 8px; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top;
  white-space: nowrap; }
thead th { color: var(--soft); font-weight: 600; vertical-align: bottom; white-space: normal; }
th[scope=row], thead th:first-child, .candidates thead th:nth-child(2) { text-align: left; font-weight: 600; }
details th[scope=row] { white-space: normal; min-width: 180px; overflow-wrap: anywhere; }
.facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
td small, th small { display: block; font-size: 11.5px; font-weight: 400; }
meter { width: 70px; vertical-align: middle; }
figure { margin: 18px 0; padding: 12px 12px 10px; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; }
figcaption { font-size: 14px; }
details { margin: 10px 0; padding: 10px 14px; border: 1px solid var(--line); border-radius: 8px; }
summary { cursor: pointer; font-weight: 600; overflow-wrap: anywhere; }
/* figures are drawn in one grey that suits both themes; here their text takes the theme's own colour */
.main-svg text { fill: var(--ink) !important; }
.main-svg .hoverlayer text { fill: #ffffff !important; }
@media print { .scroll { overflow: visible; } figure { break-inside: avoid; } }
"""

SCRIPT = """
// a figure inside a closed element has no width until that is opened
document.querySelectorAll('details').forEach(function (box) {
  box.addEventListener('toggle', function () {
    box.querySelectorAll('.js-plotly-plot').forEach(function (plot) { Plotly.Plots.resize(plot); });
  });
});
"""
