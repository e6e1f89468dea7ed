"""The categories of the auxiliary class head."""

_NAMES = """
Airplane Ant Antenna Archery Axe BabyCarriage Bag BalanceBeam Balcony Balloon Basket BasketballHoop Beatle Bed Bee
Bench Bicycle BicycleFrame BicycleStand Boat Bonsai BoomLift Bridge BunkBed Butterfly Button Cable CableLift Cage
Camcorder Cannon Canoe Car CarParkDropArm Carriage Cart Caterpillar CeilingLamp Centipede Chair Clip Clock Clothes
CoatHanger Comb ConcretePumpTruck Crack Crane Cup DentalChair Desk DeskChair Diagram DishRack DoorHandle Dragonfish
Dragonfly Drum Earphone Easel ElectricIron Excavator Eyeglasses Fan Fence Fencing FerrisWheel FireExtinguisher
Fishing Flag FloorLamp Forklift GasStation Gate Gear Goal Golf GymEquipment Hammock Handcart Handcraft Handrail
HangGlider Harp Harvester Headset Helicopter Helmet Hook HorizontalBar Hydrovalve IroningTable Jewelry Key
KidsPlayground Kitchenware Kite Knife Ladder LaundryRack Lightning Lobster Locust Machine MachineGun MagazineRack
Mantis Medal MemorialArchway Microphone Missile MobileHolder Monitor Mosquito Motorcycle MovingTrolley Mower
MusicPlayer MusicStand ObservationTower Octopus OilWell OlympicLogo OperatingTable OutdoorFitnessEquipment Parachute
Pavilion Piano Pipe PlowHarrow PoleVault Punchbag Rack Racket Rifle Ring Robot RockClimbing Rope Sailboat Satellite
Scaffold Scale Scissor Scooter Sculpture Seadragon Seahorse Seal SewingMachine Ship Shoe ShoppingCart
ShoppingTrolley Shower Shrimp Signboard Skateboarding Skeleton Skiing Spade SpeedBoat Spider Spoon Stair Stand
Stationary SteeringWheel Stethoscope Stool Stove StreetLamp SweetStand Swing Sword TV Table TableChair TableLamp
TableTennis Tank Tapeline Teapot Telescope Tent TobaccoPipe Toy Tractor TrafficLight TrafficSign Trampoline
TransmissionTower Tree Tricycle TrimmerCover Tripod Trombone Truck Trumpet Tuba UAV Umbrella UnevenBars UtilityPole
VacuumCleaner Violin Wakesurfing Watch WaterTower WateringPot Well WellLid Wheel Wheelchair WindTurbine Windmill
WineGlass WireWhisk Yacht
"""

DIS5K_CLASSES = tuple(_NAMES.split())
"""The 219 categories of DIS5K (arXiv 2203.03041), in the order in which published class heads have them."""
