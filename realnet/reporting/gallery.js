// Each gallery has its own filters: it shows the cards that match the pressed buttons for kind and error.
for (const gallery of document.querySelectorAll(".gallery")) {
  const cards = gallery.querySelector(".cards");
  const chosen = { kind: "", error: "", order: "falling" };
  const show = () => {
    let count = 0;
    for (const card of cards.children) {
      const fits = (!chosen.kind || card.dataset.kind === chosen.kind) && (!chosen.error || card.dataset.error === chosen.error);
      card.hidden = !fits;
      count += fits;
    }
    gallery.querySelector(".empty").hidden = count > 0;
  };
  gallery.querySelector(".controls").addEventListener("click", ({ target }) => {
    const { filter, value } = target.dataset;
    if (filter === undefined) return;
    const turned = filter === "order" && chosen.order !== value;
    chosen[filter] = value;
    for (const button of target.parentElement.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button === target));
    }
    if (turned) cards.append(...[...cards.children].reverse());
    show();
  });
}
