// An enlarged image fills the window until a click or Escape; the arrow keys show its neighbours.
const large = document.body.appendChild(document.createElement("dialog"));
large.append(document.createElement("img"), document.createElement("p"));
let button;
const enlarge = (chosen) => {
  button = chosen;
  const [picture, text] = large.children;
  const card = [...button.closest(".card").querySelectorAll("header b, header i")].map((part) => part.textContent);
  const caption = button.nextElementSibling.firstChild.textContent;
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
  const all = [...button.closest("[data-turns]").querySelectorAll(".zoom")];
  enlarge(all[(all.indexOf(button) + step + all.length) % all.length]);
});
