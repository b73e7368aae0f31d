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

// An enlarged image fills the window until a click or Escape; the arrow keys show the other images of its card.
const large = document.body.appendChild(document.createElement("dialog"));
large.append(document.createElement("img"), document.createElement("p"));
let button;
const enlarge = (chosen) => {
  button = chosen;
  const [picture, text] = large.children;
  const card = [...button.closest(".card").querySelectorAll("header b, header i")].map((part) => part.textContent);
  const caption = button.nextElementSibling.textContent;
  picture.src = button.firstElementChild.src;
  picture.alt = caption;
  text.textContent = [...card, caption].join(" · ");
  if (!large.open) large.showModal();
};
document.addEventListener("click", ({ target }) => {
  const chosen = target.closest(".zoom");
  if (chosen) enlarge(chosen);
});
large.addEventListener("click", () => large.close());
large.addEventListener("keydown", ({ key }) => {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[key];
  if (!step) return;
  const all = [...button.closest(".tiles").querySelectorAll(".zoom")];
  enlarge(all[(all.indexOf(button) + step + all.length) % all.length]);
});
