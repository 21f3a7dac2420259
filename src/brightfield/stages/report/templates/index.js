// Sorts and filters the table of cells; what is chosen stands in the address, so that a view can be sent on.
(function () {
  "use strict";
  const table = document.getElementById("table"), body = table.tBodies[0], heads = Array.from(table.tHead.rows[0].cells);
  const rows = Array.from(body.rows), choices = ["split", "alignment_grade", "reconstruction_type"];
  const at = (id) => document.getElementById(id);
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
  let order = {column: -1, descending: false};

  function value(row, column) {
    const cell = row.cells[column];
    return "v" in cell.dataset ? cell.dataset.v : cell.textContent.trim();
  }

  function sorted() {
    if (order.column < 0) return rows;
    const numeric = heads[order.column].dataset.kind === "number", sign = order.descending ? -1 : 1;
    const keyed = rows.map((row, i) => [value(row, order.column), i, row]);
    keyed.sort(function (a, b) {
      if (a[0] === "" || b[0] === "") return (a[0] === "") - (b[0] === "") || a[1] - b[1]; // what is not known comes last, either way
      const by = numeric ? a[0] - b[0] : a[0].localeCompare(b[0], "en", {numeric: true});
      return sign * by || a[1] - b[1];
    });
    return keyed.map((entry) => entry[2]);
  }

  function wanted(row) {
    return choices.every((name) => !at(name).value || row.getAttribute("data-" + name) === at(name).value)
      && (!at("findings").checked || row.dataset.findings !== "0")
      && at("q").value.toLowerCase().split(/\s+/).every((word) => texts.get(row).includes(word));
  }

  function show() {
    let n = 0;
    for (const row of rows) n += !(row.hidden = !wanted(row));
    body.append(...sorted());
    heads.forEach((head, i) => head.setAttribute("aria-sort", i !== order.column ? "none" : order.descending ? "descending" : "ascending"));
    at("shown").textContent = n === rows.length ? n + " cells" : n + " of " + rows.length + " cells";
  }

  function remember() {
    const told = new URLSearchParams();
    for (const name of ["q", ...choices]) if (at(name).value) told.set(name, at(name).value);
    if (at("findings").checked) told.set("findings", "1");
    if (order.column >= 0) told.set("sort", (order.descending ? "-" : "") + heads[order.column].textContent);
    location.replace("#" + (told.size ? told : "cells"));
  }

  function recall() {
    const told = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
    for (const name of ["q", ...choices]) at(name).value = told.get(name) || "";
    at("findings").checked = told.has("findings");
    const name = told.get("sort") || "";
    order = {column: heads.findIndex((head) => head.textContent === name.replace(/^-/, "")), descending: name.startsWith("-")};
    show();
  }

  heads.forEach(function (head, i) {
    const button = head.querySelector("button");
    if (button) button.addEventListener("click", function () {
      order = {column: i, descending: order.column === i && !order.descending};
      show();
      remember();
    });
  });
  document.querySelector(".filters").addEventListener("input", function () { show(); remember(); });
  at("clear").addEventListener("click", function () { location.replace("#cells"); recall(); });
  window.addEventListener("hashchange", function () { if (location.hash.includes("=")) recall(); });
  document.querySelector(".filters").hidden = false;
  recall();
})();
