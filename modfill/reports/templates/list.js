// The list of cases: its order and the size of its pictures.
const list = byId("cases");
const articles = Array.from(list.children);
const compareNames = new Intl.Collator("en", {numeric: true}).compare;

function sort() {
  const name = byId("key").value;
  const sign = byId("direction").getAttribute("aria-pressed") === "true" ? -1 : 1;
  articles.sort((a, b) => {
    const first = a.dataset[name], second = b.dataset[name];
    if (first === undefined || second === undefined) return (first === undefined) - (second === undefined);
    const order = name === "case" ? compareNames(first, second) : first - second;
    return sign * order || compareNames(a.dataset.case, b.dataset.case);
  });
  list.append(...articles);
  const text = byId("key").selectedOptions[0].text;
  const label = text[0].toLowerCase() + text.slice(1);
  byId("told").textContent = "Sorted by " + label + ", " + (sign < 0 ? "highest" : "lowest") + " first";
}

byId("key").addEventListener("change", sort);
byId("direction").addEventListener("click", () => {
  toggle(byId("direction"));
  sort();
});
byId("size").addEventListener("click", () => list.classList.toggle("large", toggle(byId("size"))));
byId("order").hidden = false;
sort();
