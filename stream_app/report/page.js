"use strict";
// Draws the figures of the page when they come near, in the colours of the page, and again when those change.
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const places = [...document.querySelectorAll("[data-figure]")];
  const drawn = new Set();

  const coloured = (value) => {
    if (Array.isArray(value)) return value.map(coloured);
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, coloured(inner)]));
    if (typeof value !== "string" || !value.startsWith("var(--")) return value;
    return getComputedStyle(document.documentElement).getPropertyValue(value.slice(4, -1)).trim();
  };

  const draw = (place) => {
    const { data, layout } = coloured(figures[Number(place.dataset.figure)]);
    drawn.add(place);
    return Plotly.react(place, data, layout, {
      responsive: true, displaylogo: false, scrollZoom: false,
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    });
  };

  const near = new IntersectionObserver(
    (entries) => entries.filter((e) => e.isIntersecting).forEach((e) => { near.unobserve(e.target); draw(e.target); }),
    { rootMargin: "600px" });
  places.forEach((place) => near.observe(place));

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn.forEach(draw));
  addEventListener("beforeprint", () => places.filter((place) => !drawn.has(place)).forEach(draw));

  const show = async (row) => {
    const place = places.find((p) => p.dataset.name === row.dataset.chart);
    if (!place) return;
    if (!drawn.has(place)) { near.unobserve(place); await draw(place); }
    const range = [Number(row.dataset.from), Number(row.dataset.to)].map((ms) => new Date(ms).toISOString());
    await Plotly.relayout(place, { "xaxis.range": range });
    place.scrollIntoView({ behavior: "smooth", block: "center" });
  };
  document.querySelectorAll("tr[data-chart]").forEach((row) => {
    row.addEventListener("click", () => show(row));
    row.addEventListener("keydown", (event) => { if (event.key === "Enter") show(row); });
  });
})();
