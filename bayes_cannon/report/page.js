"use strict";
(() => {
  const phone = matchMedia("(max-width: 62rem)").matches;
  if (phone) document.querySelector("nav details").open = false;
  addEventListener("beforeprint", () => { for (const one of document.querySelectorAll("details")) one.open = true; });

  // A select names, in each of its options, models of Bokeh, their properties, and the new values. Templates of a group
  // of selects do the same with {name} in place of the value of the select of that name.
  const documents = () => (window.Bokeh ? Bokeh.documents : []);
  const apply = (changes) => {
    for (const [name, property, value] of changes) for (const one of documents()) {
      const model = one.get_model_by_name(name);
      if (model) model[property] = value;
    }
  };
  for (const group of document.querySelectorAll(".switches")) {
    const selects = [...group.querySelectorAll("select")];
    for (const select of selects) select.addEventListener("change", () => {
      const filled = selects.reduce((text, one) => text.replaceAll(`{${one.dataset.switch}}`, one.value), group.dataset.templates);
      apply(JSON.parse(filled));
      apply(JSON.parse(select.selectedOptions[0].dataset.set));
    });
  }

  // On a touch screen a finger scrolls the page, until a tool is chosen.
  if (matchMedia("(pointer: coarse)").matches)
    addEventListener("load", () => setTimeout(() => {
      for (const one of documents()) for (const root of one.roots())
        for (const model of root.references()) if (model.type === "Toolbar") model.active_drag = null;
    }));

  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) {
      for (const link of links.values()) link.classList.remove("here");
      links.get(entry.target.id)?.classList.add("here");
    }
  }, { rootMargin: "-10% 0px -75% 0px" });
  for (const section of document.querySelectorAll("main > section")) seen.observe(section);
})();
